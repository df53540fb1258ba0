"""The tokenizer of a checkpoint as the `tokenizer.*` keys of a GGUF file.

Each kind is a function from a checkpoint and the number of rows of its embedding to all of those keys; an architecture
takes one as its `vocabulary`, or `automatic`, which chooses by the files.
"""

from __future__ import annotations

from quantpress.convert.vocabulary.automatic import automatic
from quantpress.convert.vocabulary.byte_level_bpe import byte_level_bpe
from quantpress.convert.vocabulary.sentencepiece import sentencepiece
from quantpress.convert.vocabulary.sentencepiece_json import gemma4, sentencepiece_json
from quantpress.convert.vocabulary.tekken import mistral
from quantpress.convert.vocabulary.unigram import unigram
from quantpress.convert.vocabulary.wordpiece import wordpiece

__all__ = [
    "automatic",
    "byte_level_bpe",
    "gemma4",
    "mistral",
    "sentencepiece",
    "sentencepiece_json",
    "unigram",
    "wordpiece",
]
