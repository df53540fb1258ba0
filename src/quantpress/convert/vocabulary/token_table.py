"""The tokens of a vocabulary by id: a text, a type and a score each, padding where none is set."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import numpy as np

from quantpress.checkpoint import Section
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["ADDED_SCORE", "TokenTable", "TokenType", "base_vocabulary"]

ADDED_SCORE = -1000.0
_PADDING_SCORE = -10000.0


class TokenType(IntEnum):
    """llama.cpp's numbers of the types of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class TokenTable:
    """`size` tokens, as many as the embedding has rows; `path` is the file that errors name."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.texts = [f"[PAD{number}]" for number in range(size)]
        self.types = [TokenType.UNUSED] * size
        self.scores = [_PADDING_SCORE] * size

    def __len__(self) -> int:
        return len(self.texts)

    def set(self, number: int, text: str, kind: TokenType, score: float = 0.0) -> None:
        """Set a token of the base vocabulary; raises CheckpointError where the embedding has no row for it."""
        if number >= len(self):
            found = f"id {number} for {text!r}"
            raise CheckpointError(self.path, "vocabulary", expected=f"ids under vocab_size, {len(self):,}", found=found)
        self.texts[number], self.types[number], self.scores[number] = text, kind, score

    def add(self, number: int, text: str, kind: TokenType) -> None:
        """Set an added token; one beyond the embedding (an image token in a text model) has no row and is left out."""
        if number < len(self):
            self.texts[number], self.types[number], self.scores[number] = text, kind, ADDED_SCORE

    def metadata(self, *, scored: bool = False) -> Metadata:
        """The keys of the tokens, with their scores for models that use them.

        Raises CheckpointError where two ids have the same text: llama.cpp ends the process when it loads such a file.
        """
        numbers: dict[str, int] = {}
        for number, text in enumerate(self.texts):
            if (other := numbers.setdefault(text, number)) != number:
                expected, found = "a text of its own for each id", f"{text!r} also at {other}"
                raise CheckpointError(self.path, f"token {number}", expected=expected, found=found)
        found_keys: Metadata = {
            "tokenizer.ggml.tokens": Value.array(ValueType.STRING, self.texts),
            "tokenizer.ggml.token_type": Value.array(ValueType.INT32, np.array(self.types, np.int32)),
        }
        if scored:
            scores = np.array(self.scores, np.float32)
            found_keys["tokenizer.ggml.scores"] = Value.array(ValueType.FLOAT32, scores)
        return found_keys


def base_vocabulary(model: Section) -> dict[int, str]:
    """Id to text of the `vocab` object of a tokenizer.json's model; raises CheckpointError for an id that is twice."""
    vocabulary = model.section("vocab")
    if not vocabulary.values:
        raise model.error("vocab", "an object with the id of each token", model.get("vocab"))
    texts: dict[int, str] = {}
    for text in vocabulary.values:
        number = vocabulary.integer(text, least=0)
        if number in texts:
            raise vocabulary.error(text, f"an id of its own, not that of {texts[number]!r}", number)
        texts[number] = text
    return texts
