"""Values hold what the file holds, and nothing that it cannot."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

from quantpress.gguf import Value, ValueType


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ValueType.UINT8, 256),
        (ValueType.UINT16, -1),
        (ValueType.UINT32, 1 << 32),
        (ValueType.INT32, 1 << 31),
        (ValueType.UINT64, 1 << 64),
        (ValueType.UINT32, 1.5),
        (ValueType.UINT32, True),
        (ValueType.UINT32, "1"),
        (ValueType.FLOAT32, 1e39),
        (ValueType.BOOL, 1),
        (ValueType.STRING, b"bytes"),
        (ValueType.ARRAY, [1]),
    ],
)
def test_refused(kind: ValueType, value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|items"):
        Value(kind, value)


@pytest.mark.parametrize(
    ("item", "values"),
    [
        (ValueType.UINT8, [0, 256]),
        (ValueType.UINT8, np.array([256])),
        (ValueType.INT8, np.array([200], np.uint8)),
        (ValueType.INT32, [0.5]),
        (ValueType.INT32, [math.nan]),
        (ValueType.FLOAT32, [1e39]),
        (ValueType.BOOL, [0, 2]),
        (ValueType.UINT8, [[1, 2]]),
        (ValueType.STRING, ["a", 1]),
        (ValueType.ARRAY, [[1]]),
    ],
)
def test_refused_in_array(item: ValueType, values: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|items"):
        Value.array(item, values)


def test_floats_are_rounded_to_the_type() -> None:
    assert Value.f32(0.1).value == float(np.float32(0.1))
    assert Value.array(ValueType.FLOAT32, [0.1]).value.dtype == np.float32
    assert Value.f32(-math.inf).value == -math.inf


def test_arrays_cannot_be_changed() -> None:
    given = np.array([1, 2], np.int32)
    value = Value.array(ValueType.INT32, given)
    given[0] = 5
    assert value.value.tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        value.value[0] = 5


def test_equality_is_that_of_the_bytes() -> None:
    assert Value.u16(5) == Value(ValueType.UINT16, 5)
    assert Value.u16(5) != Value.u32(5)
    assert Value.f32(math.nan) == Value.f32(math.nan)
    assert Value.f32(0.0) != Value.f32(-0.0)
    assert Value.array(ValueType.INT32, []) != Value.array(ValueType.UINT32, [])
    assert Value.u16(5) != 5


def test_encoding_of_the_specification() -> None:
    assert Value.string("é").encoded == struct.pack("<IQ2s", 8, 2, "é".encode())
    assert Value.bool_(True).encoded == struct.pack("<IB", 7, 1)
    assert Value.array(ValueType.UINT16, [1, 2]).encoded == struct.pack("<IIQ2H", 9, 2, 2, 1, 2)
    assert Value.array(ValueType.STRING, ["a"]).encoded == struct.pack("<IIQQ1s", 9, 8, 1, 1, b"a")


def test_bytes_that_are_no_utf8_survive() -> None:
    raw = b"\xff\xfe\xc3("
    text = raw.decode("utf-8", "surrogateescape")
    assert Value.string(text).encoded.endswith(raw)
