"""A safetensors file: its header validated in one place, its tensors read by rows.

    8 bytes   n, unsigned, little endian
    n bytes   JSON: {"name": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [start, end]}, …,
                     "__metadata__": {"text": "text", …}}
    the rest  the data; the tensors fill it without hole or overlap; offsets count from its start

The `safetensors` package would do, but it returns BF16 as nothing that numpy knows, and a mapping it holds counts as
our memory until the file is closed. Here a read takes only its rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import CheckpointError

__all__ = ["MAX_HEADER_BYTES", "StoredTensor", "read_safetensors", "tensors_of"]

MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 8
_TRUNCATED = "The file is truncated, as an unfinished download is: fetch it again"

_BITS = MappingProxyType(
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
    | dict.fromkeys(("I32", "U32", "F32"), 32)
    | dict.fromkeys(("I64", "U64", "F64", "C64"), 64)
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: `shape` outermost first, `offset` in bytes from the start of the file.

    `fetch` is called before a read, where the file may not be at `path` yet; it returns when it is.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    fetch: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def cols(self) -> int:
        """Weights of a row: the innermost dimension; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows [start, stop) as they are stored, uint8 [stop - start, bytes of a row].

        All dimensions but the innermost count as rows. Raises CheckpointError for a dtype that is no whole number of
        bytes, and for a file that has shrunk.
        """
        bits = _BITS[self.dtype] * self.cols
        if bits % 8:
            raise CheckpointError(self.path, f"{self.name}: dtype", expected="rows of whole bytes", found=self.dtype)
        if self.fetch is not None:
            self.fetch()
        data = np.empty((stop - start, bits // 8), np.uint8)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start * data.shape[1])
                count = file.readinto(data.data) if data.size else 0
        except OSError as error:
            raise CheckpointError(self.path, f"{self.name}: cannot be read", found=error.strerror) from error
        if count != data.size:
            expected = f"{data.size:,} bytes from row {start} on"
            raise CheckpointError(self.path, self.name, expected=expected, found=f"{count:,}", hint=_TRUNCATED)
        return data


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, in alphabetical order, as the reference library lists them.

    Nothing of the data is read. Raises CheckpointError for a header that is not exactly as the format demands.
    """
    try:
        with path.open("rb") as file:
            return tensors_of(path, path.stat().st_size, file.read)
    except OSError as error:
        raise CheckpointError(path, "cannot be read", found=error.strerror) from error


def tensors_of(
    path: Path, size: int, read: Callable[[int], bytes], fetch: Callable[[], None] | None = None
) -> dict[str, StoredTensor]:
    """The tensors of a file of `size` bytes that is or will be at `path`; `read` gives the next bytes from its start.

    Raises what read_safetensors raises for its header.
    """
    length = _header_length(path, read(8), size)
    header = _parse(path, read(length))
    _check_comments(path, header.pop("__metadata__", {}))
    data = 8 + length
    ranges = {name: _entry(path, name, entry, size - data) for name, entry in header.items()}
    _check_ranges(path, ranges, size - data)
    return {
        name: StoredTensor(
            path, name, header[name]["dtype"], tuple(header[name]["shape"]), data + ranges[name][0], fetch
        )
        for name in sorted(ranges)
    }


def _header_length(path: Path, prefix: bytes, size: int) -> int:
    if len(prefix) < 8:
        raise CheckpointError(path, "header length", expected="8 bytes", found=f"a file of {size}", hint=_TRUNCATED)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(path, "header length", expected=f"at most {MAX_HEADER_BYTES:,}", found=f"{length:,}")
    if length > size - 8:
        expected = f"within the file of {size:,} bytes"
        raise CheckpointError(path, "header length", expected=expected, found=f"{length:,}", hint=_TRUNCATED)
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise CheckpointError(path, "header", expected="a JSON object", found=repr(text[:16]))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CheckpointError(path, "header", expected="every key once", found=f"{twice!r} twice")
        return found

    try:
        header: dict[str, Any] = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, "header", expected="JSON in UTF-8", found=error) from error
    return header


def _check_comments(path: Path, comments: object) -> None:
    if not isinstance(comments, dict) or not all(isinstance(text, str) for text in comments.values()):
        raise CheckpointError(path, "__metadata__", expected="an object of strings", found=repr(comments)[:60])


def _entry(path: Path, name: str, entry: object, available: int) -> tuple[int, int]:
    """Check one entry of the header by itself; returns its data range."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CheckpointError(path, name, expected="an object of dtype, shape, data_offsets", found=repr(entry)[:60])
    bits, shape, offsets = _BITS.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if bits is None or not isinstance(entry["dtype"], str):
        raise CheckpointError(path, f"{name}: dtype", expected=", ".join(_BITS), found=repr(entry["dtype"]))
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(path, f"{name}: shape", expected="a short list of sizes", found=repr(shape)[:60])
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(path, f"{name}: data_offsets", expected="[start, end]", found=repr(offsets)[:60])
    start, end = offsets
    if end > available:
        expected = f"at most {available:,}"
        raise CheckpointError(path, f"{name}: end of data", expected=expected, found=f"{end:,}", hint=_TRUNCATED)
    needed = -(-math.prod(shape) * bits // 8)
    if end - start != needed:
        expected = f"{needed:,} bytes for {entry['dtype']} {shape}"
        raise CheckpointError(path, f"{name}: data_offsets", expected=expected, found=f"{end - start:,}")
    return start, end


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _check_ranges(path: Path, ranges: dict[str, tuple[int, int]], available: int) -> None:
    """The ranges, sorted, must touch one another from the start of the data to the end of the file."""
    position = 0
    for name, (start, end) in sorted(ranges.items(), key=itemgetter(1)):
        if start != position:
            fault = "overlaps the tensor before it" if start < position else "leaves a hole before it"
            raise CheckpointError(path, f"{name}: start of data {fault}", expected=f"{position:,}", found=f"{start:,}")
        position = end
    if position != available:
        raise CheckpointError(path, "end of data", expected=f"{position:,} bytes", found=f"{available:,}")
