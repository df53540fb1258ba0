"""Which kind of vocabulary a checkpoint has, by its files; in the order of llama.cpp's converter for Llama."""

from __future__ import annotations

from quantpress.checkpoint import Checkpoint
from quantpress.convert.vocabulary.byte_level_bpe import byte_level_bpe, is_byte_level
from quantpress.convert.vocabulary.files import model_type
from quantpress.convert.vocabulary.sentencepiece import sentencepiece
from quantpress.convert.vocabulary.sentencepiece_json import sentencepiece_json
from quantpress.convert.vocabulary.tekken import mistral, mistral_model
from quantpress.convert.vocabulary.unigram import UNIGRAM_FILES, unigram
from quantpress.convert.vocabulary.wordpiece import wordpiece
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata

__all__ = ["automatic"]

_FILES = "tokenizer.model, tokenizer.json, tekken.json, sentencepiece.bpe.model, spiece.model"


def automatic(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a vocabulary of `size` ids, of the kind that the checkpoint's files are of.

    tekken.json where there is no tokenizer.json; else tokenizer.model; else tokenizer.json, by the type of its model;
    else Mistral's SentencePiece file, or one of a unigram model.

    Raises CheckpointError where there is none of them, for a type that llama.cpp does not know, and for what the chosen
    kind raises.
    """
    folder = checkpoint.path
    tokenizer = checkpoint.json("tokenizer.json")
    if tokenizer is None and (folder / "tekken.json").is_file():
        return mistral(checkpoint, size)
    if (folder / "tokenizer.model").is_file():
        return sentencepiece(checkpoint, size)
    if tokenizer is None:
        if mistral_model(folder) is not None:
            return mistral(checkpoint, size)
        if any((folder / name).is_file() for name in UNIGRAM_FILES):
            return unigram(checkpoint, size)
        raise CheckpointError(folder, "tokenizer", expected=f"one of {_FILES}", found="none of them")
    model = tokenizer.section("model")
    kind = model_type(model)
    if kind == "BPE" and model.get("byte_fallback") and not is_byte_level(tokenizer):
        return sentencepiece_json(checkpoint, size)
    kinds = {"BPE": byte_level_bpe, "Unigram": unigram, "WordPiece": wordpiece}
    if kind not in kinds:
        raise model.error("type", f"one that llama.cpp knows: {', '.join(kinds)}", kind)
    return kinds[kind](checkpoint, size)
