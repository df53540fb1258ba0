"""The SentencePiece vocabulary as llama.cpp wants it: a text, a score and a type a token.

The pieces come from tokenizer.model; added tokens come from added_tokens.json and tokenizer_config.json and replace
them; ids that neither has are padding. The texts, scores and types are those of llama.cpp's own converter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
import sentencepiece

from quantpress.checkpoint import Checkpoint, Section
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["TokenType", "sentencepiece_vocabulary"]

_ADDED_SCORE = -1000.0
_PADDING_SCORE = -10000.0
_SPACE = "\u2581"


class TokenType(IntEnum):
    """llama.cpp's numbers of the types of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class _Table:
    """The tokens by id, padding where none is set."""

    size: int
    texts: list[str] = field(init=False)
    scores: list[float] = field(init=False)
    types: list[TokenType] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [f"[PAD{i}]" for i in range(self.size)]
        self.scores = [_PADDING_SCORE] * self.size
        self.types = [TokenType.UNUSED] * self.size

    def add(self, number: int, text: str, kind: TokenType) -> None:
        """Set an added token; one beyond the embedding (an image token in a text model) has no row and is left out."""
        if number < self.size:
            self.texts[number], self.scores[number], self.types[number] = text, _ADDED_SCORE, kind


def sentencepiece_vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    """The `tokenizer.ggml` keys of the tokens of a vocabulary of `size` ids.

    Raises CheckpointError where tokenizer.model is missing, malformed or larger than `size`, or an added token is
    malformed.
    """
    table = _Table(size)
    _set_pieces(table, checkpoint.path / "tokenizer.model")
    if added := checkpoint.json("added_tokens.json"):
        for text in added.values:
            table.add(added.integer(text, least=0), text, TokenType.USER_DEFINED)
    if config := checkpoint.json("tokenizer_config.json"):
        _add_tokens(table, config.section("added_tokens_decoder"))
    return {
        "tokenizer.ggml.model": Value.string("llama"),
        "tokenizer.ggml.pre": Value.string("default"),
        "tokenizer.ggml.tokens": Value.array(ValueType.STRING, table.texts),
        "tokenizer.ggml.scores": Value.array(ValueType.FLOAT32, np.array(table.scores, np.float32)),
        "tokenizer.ggml.token_type": Value.array(ValueType.INT32, np.array(table.types, np.int32)),
    }


def _set_pieces(table: _Table, path: Path) -> None:
    model = _load(path)
    count = model.get_piece_size()
    if count > table.size:
        raise CheckpointError(path, "pieces", expected=f"at most vocab_size, {table.size:,}", found=f"{count:,}")
    for number in range(count):
        try:
            table.texts[number] = model.id_to_piece(number)
        except UnicodeDecodeError as error:
            raise CheckpointError(path, f"piece {number}", expected="UTF-8", found=error) from error
        table.scores[number] = model.get_score(number)
        table.types[number] = _piece_type(model, number)
        if not math.isfinite(table.scores[number]):
            found = table.scores[number]
            raise CheckpointError(path, f"piece {number}: score", expected="a finite number", found=found)


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    if not path.is_file():
        raise CheckpointError(path, "tokenizer", expected="a SentencePiece model", found="no such file")
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.load_from_serialized_proto(path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, "cannot be read", found=error.strerror) from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(path, "tokenizer", expected="a SentencePiece model", found=error) from error
    if model.get_piece_size() == 0:
        raise CheckpointError(path, "tokenizer", expected="a SentencePiece model", found="no pieces")
    return model


def _piece_type(model: sentencepiece.SentencePieceProcessor, number: int) -> TokenType:
    if model.is_unknown(number):
        return TokenType.UNKNOWN
    if model.is_control(number):
        return TokenType.CONTROL
    if model.is_unused(number):
        return TokenType.UNUSED
    return TokenType.BYTE if model.is_byte(number) else TokenType.NORMAL


def _add_tokens(table: _Table, added: Section) -> None:
    for key in added.values:
        if not (key.isascii() and key.isdecimal()):
            raise added.error(key, "a token's number as key", key)
        token = added.section(key)
        text = token.text("content")
        if token.get("special") or _looks_special(text):
            table.add(int(key), text, TokenType.CONTROL)
        else:
            table.add(int(key), text.replace(_SPACE, " "), TokenType.USER_DEFINED)


def _looks_special(text: str) -> bool:
    """Whether llama.cpp's converter takes a token for a control token though its entry does not say so."""
    brackets = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(left) and text.endswith(right) for left, right in brackets
    )
