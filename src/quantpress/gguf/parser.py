"""The bytes of one GGUF file, read as if an enemy had written them.

Every known hole in GGUF parsers (CVE-2024-21802, CVE-2024-23605, CVE-2025-53630, CVE-2026-27940, CVE-2026-33298,
CVE-2026-7482) trusted a count, a shape or an offset. Here a count is compared with the bytes that are left before
anything is allocated for it, all arithmetic is in Python's unbounded integers, and offsets are not trusted at all:
they must be the ones that follow from the shapes (see layout.py). The `gguf` package's reader does none of this; a file
of 43 bytes makes it loop for ever.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantpress.errors import GGUFError
from quantpress.formats import TYPES_BY_ID
from quantpress.gguf.layout import (
    MAGIC,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_NAME_BYTES,
    MAX_TENSORS,
    MAX_TEXT_BYTES,
    TensorSpec,
    alignment_of,
    check_count,
    check_names,
    check_tensor,
    check_text,
    padded,
    place,
    quoted,
)
from quantpress.gguf.values import DTYPES, STRUCTS, Metadata, Value, ValueType

__all__ = ["IncompleteError", "ParsedFile", "Tensor", "parse", "parse_start"]

VERSIONS = (2, 3)  # they differ only in what 3 says about big-endian files
KEY_BYTES = 8 + 1 + 4 + 1  # at least: length, key, type, value
INFO_BYTES = 8 + 1 + 4 + 4 + 8  # at least: length, name, dimensions, type, offset
TRUNCATED = "The file is truncated or malformed"

Bytes = mmap.mmap | bytes


class IncompleteError(Exception):
    """The header goes on after the bytes that are at hand: `needed` of the file's first ones, or more, are wanted."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        super().__init__(f"{needed:,} bytes or more are needed")


@dataclass(frozen=True, slots=True)
class Tensor(TensorSpec):
    """A tensor of a file: its data starts at byte `offset` of part number `part` (from 0)."""

    offset: int
    part: int = 0


@dataclass(frozen=True)
class ParsedFile:
    """One valid file; `data` is its map, all of it."""

    path: Path
    version: int
    alignment: int
    metadata: Metadata
    tensors: list[Tensor]
    data: Bytes


def parse(path: Path, part: int = 0) -> ParsedFile:
    """Map and check one file, a whole model or one part of it; raises GGUFError for anything malformed."""
    data = _mapped(path)
    return parse_start(path, data, len(data), part)


def parse_start(path: Path, data: Bytes, size: int, part: int = 0) -> ParsedFile:
    """The same of a file of `size` bytes of which `data` are the first, 4 at least; those of the header are enough.

    Raises IncompleteError where they are too few. `path` is the file's name for messages.
    """
    cursor = _Cursor(path, data, size)
    version = _version(cursor)
    tensor_count = cursor.count("number of tensors", MAX_TENSORS, INFO_BYTES)
    key_count = cursor.count("number of keys", MAX_KEYS, KEY_BYTES)
    metadata = _metadata(cursor, key_count)
    alignment = alignment_of(path, metadata)
    infos = [_tensor_info(cursor, index) for index in range(tensor_count)]
    tensors = _placed(cursor, infos, alignment, part)
    return ParsedFile(path, version, alignment, metadata, tensors, cursor.data)


class _Cursor:
    """A position in a file of `size` bytes that cannot pass its end, nor that of the `data` at hand."""

    def __init__(self, path: Path, data: Bytes, size: int) -> None:
        self.path, self.data, self.size, self.position = path, data, size, 0

    def take(self, field: str, size: int) -> int:
        """Where the next `size` bytes start; the cursor passes them."""
        start, left = self.position, self.size - self.position
        if size > left:
            found = f"{left:,} before the end of the file"
            raise GGUFError(self.path, field, expected=f"{size:,} bytes", found=found, hint=TRUNCATED)
        self.position += size
        if self.position > len(self.data):
            raise IncompleteError(self.position)
        return start

    def number(self, field: str, kind: ValueType) -> Any:
        """The next number or truth value."""
        number = STRUCTS[kind]
        return number.unpack_from(self.data, self.take(field, number.size))[0]

    def count(self, field: str, limit: int, item_bytes: int) -> int:
        """The next u64, a number of things of at least `item_bytes` bytes each, of which `limit` are allowed."""
        found: int = self.number(field, ValueType.UINT64)
        check_count(self.path, field, found, limit)
        self.check_room(field, found, item_bytes)
        return found

    def check_room(self, field: str, count: int, item_bytes: int) -> None:
        """Raise GGUFError if `count` things of at least `item_bytes` bytes cannot be in the rest of the file."""
        room = (self.size - self.position) // item_bytes
        if count > room:
            expected = f"at most {room:,}, which is what the rest of the file can hold"
            raise GGUFError(self.path, field, expected=expected, found=f"{count:,}", hint=TRUNCATED)

    def raw_text(self, field: str, limit: int) -> bytes:
        """The bytes of the next text, `limit` at most."""
        size: int = self.number(f"{field}: length", ValueType.UINT64)
        if size > limit:
            raise GGUFError(self.path, field, expected=f"at most {limit:,} bytes", found=f"{size:,}")
        start = self.take(field, size)
        return self.data[start : start + size]


def _mapped(path: Path) -> Bytes:
    """The map of a file; b"" for an empty one, which cannot be mapped."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # or a pipe would be waited for
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise GGUFError(path, "file", expected="a regular file", found="a folder, pipe or device")
            return mmap.mmap(file, 0, access=mmap.ACCESS_READ) if status.st_size else b""
        finally:
            os.close(file)
    except OSError as error:
        raise GGUFError(path, "file", expected="a readable file", found=error.strerror or error) from error


def _version(cursor: _Cursor) -> int:
    magic = cursor.data[: len(MAGIC)]
    if magic != MAGIC:
        raise GGUFError(
            cursor.path, "magic", expected=MAGIC, found=magic or "an empty file", hint="This is no GGUF file"
        )
    cursor.take("magic", len(MAGIC))
    version: int = cursor.number("version", ValueType.UINT32)
    if version and version & 0xFFFF == 0:
        found = f"{int.from_bytes(version.to_bytes(4, 'little'), 'big')} in big-endian order"
        raise GGUFError(cursor.path, "version", expected="a little-endian file", found=found)
    if version not in VERSIONS:
        raise GGUFError(cursor.path, "version", expected=" or ".join(map(str, VERSIONS)), found=version)
    return version


def _metadata(cursor: _Cursor, count: int) -> Metadata:
    metadata: Metadata = {}
    for index in range(count):
        field = f"key {index}"
        key = check_text(cursor.path, field, cursor.raw_text(field, MAX_KEY_BYTES), MAX_KEY_BYTES)
        field = f"key {quoted(key)}"
        if key in metadata:
            raise GGUFError(cursor.path, field, expected="unique keys", found="a second one")
        metadata[key] = _value(cursor, field)
    return metadata


def _value(cursor: _Cursor, field: str) -> Value:
    kind = _value_type(cursor, f"{field}: type")
    if kind is ValueType.ARRAY:
        return _array(cursor, field)
    if kind is ValueType.STRING:
        return Value(kind, cursor.raw_text(field, MAX_TEXT_BYTES).decode("utf-8", "surrogateescape"))
    if kind is ValueType.BOOL:
        _check_bools(cursor, field, 1)
    return Value(kind, cursor.number(field, kind))


def _value_type(cursor: _Cursor, field: str) -> ValueType:
    number = cursor.number(field, ValueType.UINT32)
    try:
        return ValueType(number)
    except ValueError:
        raise GGUFError(cursor.path, field, expected=f"0 to {max(ValueType):d}", found=number) from None


def _array(cursor: _Cursor, field: str) -> Value:
    item = _value_type(cursor, f"{field}: type of the items")
    if item is ValueType.ARRAY:
        raise GGUFError(cursor.path, field, expected="a flat array", found="an array of arrays")
    count: int = cursor.number(f"{field}: number of items", ValueType.UINT64)
    if item is ValueType.STRING:
        return Value(ValueType.ARRAY, _texts(cursor, field, count), item)
    cursor.check_room(f"{field}: number of items", count, DTYPES[item].itemsize)
    if item is ValueType.BOOL:
        _check_bools(cursor, field, count)
    start = cursor.take(field, count * DTYPES[item].itemsize)
    return Value(ValueType.ARRAY, _view(cursor.data, start, count, DTYPES[item]), item)


def _check_bools(cursor: _Cursor, field: str, count: int) -> None:
    """Refuse bytes other than 0 and 1 at the cursor, which stays; fewer than `count` are left to the next read."""
    found = cursor.data[cursor.position : cursor.position + count].strip(b"\0\1")
    if found:
        raise GGUFError(cursor.path, field, expected="booleans of 0 or 1", found=found[0])


def _view(data: Bytes, start: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    # of an empty array nothing may be viewed, at the end of the file not even its start
    return np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)


def _texts(cursor: _Cursor, field: str, count: int) -> list[str]:
    """The texts of an array: the hot loop of a vocabulary, so it does without the cursor's calls."""
    cursor.check_room(f"{field}: number of items", count, 8)
    data, end, unpack = cursor.data, len(cursor.data), STRUCTS[ValueType.UINT64].unpack_from
    raw: list[bytes] = []
    start = cursor.position + 8
    for index in range(count):
        stop = start + unpack(data, start - 8)[0] if start <= end else end + 1
        if stop > end or stop - start > MAX_TEXT_BYTES:
            cursor.position = start - 8
            cursor.raw_text(f"{field}: item {index:,}", MAX_TEXT_BYTES)  # says what is wrong
        raw.append(data[start:stop])
        start = stop + 8
    cursor.position = start - 8
    try:
        return list(map(bytes.decode, raw))
    except UnicodeDecodeError:
        return [text.decode("utf-8", "surrogateescape") for text in raw]


def _tensor_info(cursor: _Cursor, index: int) -> tuple[TensorSpec, int]:
    """A tensor's entry and the offset that it claims."""
    field = f"tensor {index}"
    name = check_text(cursor.path, f"{field}: name", cursor.raw_text(f"{field}: name", MAX_NAME_BYTES), MAX_NAME_BYTES)
    field = f"tensor {quoted(name)}"
    dimensions: int = cursor.number(f"{field}: number of dimensions", ValueType.UINT32)
    check_count(cursor.path, f"{field}: number of dimensions", dimensions, MAX_DIMENSIONS)
    shape = tuple(cursor.number(f"{field}: dimension {axis}", ValueType.UINT64) for axis in range(dimensions))
    number = cursor.number(f"{field}: type", ValueType.UINT32)
    if number not in TYPES_BY_ID:
        known = ", ".join(map(str, sorted(TYPES_BY_ID)))
        raise GGUFError(cursor.path, f"{field}: type", expected=f"a known type ({known})", found=number)
    spec = TensorSpec(name, shape, TYPES_BY_ID[number])
    check_tensor(cursor.path, spec)
    return spec, cursor.number(f"{field}: offset", ValueType.UINT64)


def _placed(cursor: _Cursor, infos: list[tuple[TensorSpec, int]], alignment: int, part: int) -> list[Tensor]:
    """The tensors where they must lie; raises GGUFError if one claims another place or ends outside of the file."""
    specs = [spec for spec, _ in infos]
    check_names(cursor.path, specs)
    start = padded(cursor.position, alignment)
    offsets, _ = place(specs, start, alignment)
    tensors = []
    for spec, claimed in infos:
        offset, field = offsets[spec.name], f"tensor {quoted(spec.name)}"
        if claimed != offset - start:
            hint = "Tensors follow each other in order, each aligned, without gap or overlap"
            raise GGUFError(cursor.path, f"{field}: offset", expected=offset - start, found=claimed, hint=hint)
        if offset + spec.nbytes > cursor.size:
            expected, found = f"a file of {offset + spec.nbytes:,} bytes or more", f"{cursor.size:,}"
            raise GGUFError(cursor.path, f"{field}: data", expected=expected, found=found, hint=TRUNCATED)
        tensors.append(Tensor(spec.name, spec.shape, spec.type, offset, part))
    return tensors
