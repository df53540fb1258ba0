"""The `.dat` format that llama-imatrix wrote before 2025, and still writes on request.

    i32 entries
    entries × { i32 length, name, i32 chunks, i32 values, f32 values[] }     value = chunks × mean squared input
    i32 chunks, i32 length, dataset                                          both optional

Nothing in it can be trusted: every count is checked against the bytes that are left before it is used.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from quantpress.errors import ImatrixError

__all__ = ["read_legacy"]

_LONGEST_NAME = 63
_SMALLEST_ENTRY = 4 + 1 + 4 + 4 + 4


class _Cursor:
    """Reads values from bytes, none of them beyond the end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, field: str, size: int) -> bytes:
        if size > self.left:
            raise ImatrixError(self.path, field, expected=f"{size:,} bytes", found=f"{self.left:,} left in the file")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, field: str, low: int, high: int) -> int:
        (found,) = struct.unpack("<i", self.take(field, 4))
        if not low <= found <= high:
            raise ImatrixError(self.path, field, expected=f"{low:,} to {high:,}", found=f"{found:,}")
        return int(found)

    def text(self, field: str, size: int) -> str:
        try:
            return self.take(field, size).decode("utf-8")
        except UnicodeDecodeError:
            raise ImatrixError(self.path, field, expected="UTF-8", found="other bytes") from None


def read_legacy(path: Path) -> dict[str, Any]:
    """The fields of an Imatrix: one matrix and one count an entry, as the format knows no other.

    Raises ImatrixError for whatever is not in bounds, not finite, negative, or named twice.
    """
    cursor = _Cursor(path)
    sums, counts = {}, {}
    for number in range(1, _entries(cursor) + 1):
        name = _name(cursor, f"entry {number}")
        if name in sums:
            raise ImatrixError(path, name, expected="one entry", found="two")
        counts[name] = np.array([cursor.number(f"{name}: chunks", 0, 2**31 - 1)], dtype=np.int64)
        sums[name] = _values(cursor, name)
    chunks, datasets = _trailer(cursor)
    order = sorted(sums, key=str.encode)
    return {
        "sums": {name: sums[name] for name in order},
        "counts": {name: counts[name] for name in order},
        "chunk_count": chunks,
        "datasets": datasets,
    }


def _entries(cursor: _Cursor) -> int:
    """The first number of the file; where it cannot be one of entries, this is another kind of file."""
    found = int.from_bytes(cursor.data[:4], "little", signed=True)
    if not 1 <= found <= (cursor.left - 4) // _SMALLEST_ENTRY:
        what = f"neither a GGUF nor a legacy imatrix (it would begin with {found:,} entries)"
        raise ImatrixError(cursor.path, "file", expected="an importance matrix", found=what)
    return cursor.number("number of entries", 1, found)


def _name(cursor: _Cursor, field: str) -> str:
    return cursor.text(f"{field}: name", cursor.number(f"{field}: length of the name", 1, _LONGEST_NAME))


def _values(cursor: _Cursor, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    size = cursor.number(f"{name}: number of values", 1, max(1, cursor.left // 4))
    values = np.frombuffer(cursor.take(f"{name}: values", 4 * size), dtype="<f4").astype(np.float32)
    odd = values[~(np.isfinite(values) & (values >= 0))]
    if odd.size:
        raise ImatrixError(cursor.path, name, expected="finite values that are not negative", found=odd[0])
    return values.reshape(1, -1)


def _trailer(cursor: _Cursor) -> tuple[int, tuple[str, ...]]:
    if not cursor.left:
        return 0, ()
    chunks = cursor.number("number of chunks", 0, 2**31 - 1)
    if not cursor.left:
        return chunks, ()
    size = cursor.number("length of the dataset's name", 0, max(0, cursor.left - 4))
    dataset = cursor.text("dataset's name", size)
    if cursor.left:
        raise ImatrixError(cursor.path, "end of the file", expected="nothing more", found=f"{cursor.left:,} bytes")
    return chunks, (dataset,) if dataset else ()
