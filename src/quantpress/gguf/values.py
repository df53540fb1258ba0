"""Metadata values of a GGUF file: a number, a truth value, a text, or a flat array of one of these.

A `Value` keeps the type beside the number, because llama.cpp refuses a key whose type is not the one it expects: u16 5
and i32 5 are different values here too. Two values are equal when their bytes in the file are equal, so NaN equals
itself and 0.0 differs from -0.0: what matters is whether a file changes.

Numbers and layout: the GGUF specification, `docs/gguf.md` in ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "STRUCTS", "Metadata", "Value", "ValueType", "encode_text"]


class ValueType(IntEnum):
    """The type numbers of the format."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODES = {  # of a struct, and of a numpy array
    ValueType.UINT8: ("B", "u1"),
    ValueType.INT8: ("b", "i1"),
    ValueType.UINT16: ("H", "u2"),
    ValueType.INT16: ("h", "i2"),
    ValueType.UINT32: ("I", "u4"),
    ValueType.INT32: ("i", "i4"),
    ValueType.FLOAT32: ("f", "f4"),
    ValueType.BOOL: ("?", "?"),
    ValueType.UINT64: ("Q", "u8"),
    ValueType.INT64: ("q", "i8"),
    ValueType.FLOAT64: ("d", "f8"),
}
STRUCTS = {kind: struct.Struct("<" + code) for kind, (code, _) in _CODES.items()}
DTYPES: dict[ValueType, np.dtype[Any]] = {kind: np.dtype("<" + code) for kind, (_, code) in _CODES.items()}


@dataclass(frozen=True, eq=False)
class Value:
    """One metadata value.

    `value` is an int, float, bool or str; for an array (`item` is the type of its items) a read-only one-dimensional
    numpy array of the exact dtype, or a list of str. Bytes of a text that are no UTF-8 are kept as lone surrogates
    (`surrogateescape`) and written back unchanged. Raises ValueError for what the type cannot hold.
    """

    type: ValueType
    value: Any
    item: ValueType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _normalized(self.type, self.item, self.value))

    def __eq__(self, other: object) -> bool:
        return self.encoded == other.encoded if isinstance(other, Value) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def encoded(self) -> bytes:
        """The bytes that follow the key in a file; UnicodeEncodeError (a ValueError) for a text that has none."""
        head = struct.pack("<I", self.type)
        if self.item is None:
            payload = encode_text(self.value) if self.type is ValueType.STRING else STRUCTS[self.type].pack(self.value)
            return head + payload
        head += struct.pack("<IQ", self.item, len(self.value))
        if self.item is ValueType.STRING:
            return head + b"".join(map(encode_text, self.value))
        return head + bytes(self.value.tobytes())

    @staticmethod
    def u16(value: int) -> Value:
        """An unsigned number of 16 bits."""
        return Value(ValueType.UINT16, value)

    @staticmethod
    def u32(value: int) -> Value:
        """An unsigned number of 32 bits."""
        return Value(ValueType.UINT32, value)

    @staticmethod
    def i32(value: int) -> Value:
        """A signed number of 32 bits."""
        return Value(ValueType.INT32, value)

    @staticmethod
    def u64(value: int) -> Value:
        """An unsigned number of 64 bits."""
        return Value(ValueType.UINT64, value)

    @staticmethod
    def f32(value: float) -> Value:
        """A float of 32 bits; `.value` is the number after rounding to it."""
        return Value(ValueType.FLOAT32, value)

    @staticmethod
    def bool_(value: bool) -> Value:
        """A truth value."""
        return Value(ValueType.BOOL, value)

    @staticmethod
    def string(value: str) -> Value:
        """A text."""
        return Value(ValueType.STRING, value)

    @staticmethod
    def array(item: ValueType, values: Sequence[Any] | npt.NDArray[Any]) -> Value:
        """A flat array of numbers, truth values or texts."""
        return Value(ValueType.ARRAY, values, item)


Metadata = dict[str, Value]
"""Key to value, in the order of the file."""


def encode_text(text: str) -> bytes:
    """Length and bytes of a text; the reverse of decoding with `surrogateescape`."""
    raw = text.encode("utf-8", "surrogateescape")
    return STRUCTS[ValueType.UINT64].pack(len(raw)) + raw


def _normalized(kind: ValueType, item: ValueType | None, value: Any) -> Any:
    if (kind is ValueType.ARRAY) != (item is not None) or item is ValueType.ARRAY:
        raise ValueError(f"a value of type {kind.name} cannot have items of type {item.name if item else None}")
    if item is ValueType.STRING:
        return [_text(text) for text in value]
    if item is not None:
        return _numbers(item, value)
    return _text(value) if kind is ValueType.STRING else _number(kind, value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {value!r}")
    return value


def _number(kind: ValueType, value: Any) -> Any:
    """`value` as the file gives it back: floats are rounded, anything else must fit."""
    if (kind is ValueType.BOOL) != isinstance(value, (bool, np.bool_)):
        raise ValueError(f"expected {kind.name}, found {value!r}")
    try:
        return STRUCTS[kind].unpack(STRUCTS[kind].pack(value))[0]
    except (struct.error, OverflowError) as error:
        raise ValueError(f"expected {kind.name}, found {value!r}: {error}") from error


def _numbers(item: ValueType, values: Any) -> npt.NDArray[Any]:
    """A read-only copy in the item's dtype; floats are rounded, anything else must be held exactly."""
    given = np.asarray(values)
    try:
        with np.errstate(invalid="raise", over="raise"):
            array = np.array(given, dtype=DTYPES[item])
    except ArithmeticError as error:
        raise ValueError(f"expected an array of {item.name}: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"expected a flat array of {item.name}, found {array.ndim} dimensions")
    if array.dtype.kind != "f" and given.size and not np.array_equal(array, given):
        raise ValueError(f"expected an array of {item.name}, found numbers that it cannot hold")
    array.flags.writeable = False
    return array
