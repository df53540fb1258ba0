"""A SentencePiece model file: its pieces, and the settings of its trainer and normalizer that matter here.

The file is a protocol buffer; what is read of it (the field numbers are those of sentencepiece_model.proto):

    ModelProto      1 pieces, repeated      2 trainer_spec      3 normalizer_spec
    SentencePiece   1 piece: string         2 score: float      3 type: 1 normal, 2 unknown, 3 control,
                                                                        4 user defined, 5 unused, 6 byte
    TrainerSpec     3 model_type: 1 unigram, 2 BPE, 3 word, 4 character
    NormalizerSpec  2 precompiled_charsmap: bytes               3 add_dummy_prefix: bool, default true
                    4 remove_extra_whitespaces: bool, default true

The sentencepiece package tells no user-defined piece from a normal one, and nothing of the normalizer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantpress.convert.vocabulary.token_table import TokenType
from quantpress.errors import CheckpointError

__all__ = ["BPE", "UNIGRAM", "Piece", "SentencePieceModel", "read_sentencepiece_model"]

UNIGRAM, BPE = 1, 2
_MAX_BYTES = 256 << 20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {
    1: TokenType.NORMAL,
    2: TokenType.UNKNOWN,
    3: TokenType.CONTROL,
    4: TokenType.USER_DEFINED,
    5: TokenType.UNUSED,
    6: TokenType.BYTE,
}


@dataclass(frozen=True)
class Piece:
    """A piece of the vocabulary; its id is its place."""

    text: str
    score: float
    type: TokenType


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says."""

    path: Path
    pieces: tuple[Piece, ...]
    model_type: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read and validate a model file; raises CheckpointError where it is missing or malformed."""
    if not path.is_file():
        raise CheckpointError(path, "tokenizer", expected="a SentencePiece model", found="no such file")
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise CheckpointError(path, "size", expected=f"at most {_MAX_BYTES:,} bytes", found=f"{size:,}")
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, "cannot be read", found=error.strerror) from error
    except _MalformedError as error:
        raise CheckpointError(path, "tokenizer", expected="a SentencePiece model", found=error) from error


class _MalformedError(Exception):
    """Bytes that are no such protocol buffer."""


def _parse(path: Path, data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(path, len(pieces), value))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
        elif number == 3:
            normalizer = dict(_fields(_bytes(value)))
    if not pieces:
        raise _MalformedError("no pieces")
    if not trainer:
        raise _MalformedError("no trainer_spec, which says what kind of model it is")
    return SentencePieceModel(
        path,
        tuple(pieces),
        model_type=_integer(trainer.get(3, UNIGRAM)),
        charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
    )


def _piece(path: Path, place: int, value: int | bytes) -> Piece:
    entry = dict(_fields(_bytes(value)))
    try:
        text = _bytes(entry.get(1, b"")).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(path, f"piece {place}", expected="UTF-8", found=error) from error
    (score,) = struct.unpack("<f", struct.pack("<I", _integer(entry.get(2, 0)) & 0xFFFFFFFF))
    if not math.isfinite(score):
        raise CheckpointError(path, f"piece {place}: score", expected="a finite number", found=score)
    kind = _TYPES.get(_integer(entry.get(3, 1)))
    if kind is None:
        raise _MalformedError(f"type {entry[3]!r} of piece {place}")
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and value of each field of a message: bytes where it has a length, else an unsigned number."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _MalformedError(f"a field with the number 0 at byte {place}")
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            length, place = _varint(data, place)
        if length is None or length > end - place:
            raise _MalformedError(f"field {number} of wire type {wire} that ends beyond its message")
        content, place = data[place : place + length], place + length
        yield number, content if wire == _BYTES else int.from_bytes(content, "little")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, least first; the top bit of a byte says that another follows."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise _MalformedError("a number without an end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise _MalformedError("a number where a message or text should be")


def _integer(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    raise _MalformedError("bytes where a number should be")
