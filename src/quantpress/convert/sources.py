"""Where the rows of a tensor come from. A transform wraps a source in another; rows are read one tile at a time.

Rows keep the bytes that the checkpoint has, so that BF16 goes through as it is; what computes with weights decodes
them first. Transforms that move rows or columns do so on the bytes: every type here has whole bytes a weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpress import codec
from quantpress.arrays import Bytes, Floats
from quantpress.errors import CheckpointError
from quantpress.formats import TYPES, TensorType
from quantpress.safetensors import StoredTensor

__all__ = [
    "Bytes",
    "Source",
    "computed",
    "joined",
    "mapped",
    "reordered",
    "reordered_columns",
    "reshaped",
    "rows",
    "stored",
    "transposed",
]

_TILE_WEIGHTS = 1 << 20  # enough that what is done once a tile does not count
_LARGEST_TILE = 1 << 24
_TYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16", "U8": "I8", "I8": "I8"}


@dataclass(frozen=True)
class Source:
    """A tensor to be: `path` and `name` are the checkpoint's, for messages; `shape` outermost first.

    `read(start, stop)` gives rows as uint8 [stop - start, bytes of a row] of `type`; all dimensions but the innermost
    count as rows. `together` is how many of them cost as much to read as one.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    type: TensorType
    read: Callable[[int, int], Bytes]
    together: int = 1

    @property
    def cols(self) -> int:
        """Weights of a row."""
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """All rows."""
        return math.prod(self.shape[:-1])

    def floats(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows as float32 [stop - start, cols], exactly; default all."""
        return codec.decode(self.read(start, self.rows if stop is None else stop), self.type.name, self.cols, threads=1)

    def cuts(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows, in order, of about 2^20 weights each; more where rows are read together."""
        step = max(1, _TILE_WEIGHTS // self.cols)
        if step < self.together <= _LARGEST_TILE // self.cols:
            step = self.together
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)


def stored(tensor: StoredTensor) -> Source:
    """A tensor as the checkpoint has it; a scalar as one weight. Raises CheckpointError for other dtypes."""
    if tensor.dtype not in _TYPES:
        raise CheckpointError(tensor.path, f"{tensor.name}: dtype", expected=", ".join(_TYPES), found=tensor.dtype)
    return Source(tensor.path, tensor.name, tensor.shape or (1,), TYPES[_TYPES[tensor.dtype]], tensor.read)


def computed(like: Source, name: str, values: Floats) -> Source:
    """A tensor of a few values that are known already: float32 [cols] or [rows, cols]; `like` stands in messages."""
    data = np.ascontiguousarray(values.reshape(-1, values.shape[-1])).view(np.uint8)
    return Source(like.path, name, values.shape, TYPES["F32"], lambda start, stop: data[start:stop])


def mapped(source: Source, function: Callable[[Floats], Floats]) -> Source:
    """Each weight replaced by a function of it, in float32."""

    def read(start: int, stop: int) -> Bytes:
        return np.ascontiguousarray(function(source.floats(start, stop)), np.float32).view(np.uint8)

    return replace(source, type=TYPES["F32"], read=read)


def rows(source: Source, first: int, shape: tuple[int, ...]) -> Source:
    """The rows from `first` on that fill this shape."""
    return replace(source, shape=shape, read=lambda start, stop: source.read(first + start, first + stop))


def reordered(
    source: Source, order: Callable[[NDArray[np.int64]], NDArray[np.int64]], shape: tuple[int, ...]
) -> Source:
    """Rows in another order: `order` gives the row of the source for each row of the result."""

    def read(start: int, stop: int) -> Bytes:
        wanted = order(np.arange(start, stop))
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low <= 4 * (stop - start):
            return source.read(low, high)[wanted - low]
        return np.concatenate([source.read(int(row), int(row) + 1) for row in wanted])

    return replace(source, shape=shape, read=read)


def reordered_columns(source: Source, order: NDArray[np.int64]) -> Source:
    """Columns in another order: column i of the result is column `order[i]` of the source."""

    def read(start: int, stop: int) -> Bytes:
        return np.take(source.read(start, stop).view(_word(source)), order, axis=1).view(np.uint8)

    return replace(source, shape=(*source.shape[:-1], len(order)), read=read)


def reshaped(source: Source, shape: tuple[int, ...]) -> Source:
    """The same weights in the same order, in shorter rows: each row of the source becomes a whole number of them."""
    each, width = source.cols // shape[-1], shape[-1] * source.type.bytes

    def read(start: int, stop: int) -> Bytes:
        first = start // each
        data = source.read(first, -(-stop // each)).reshape(-1, width)
        return data[start - first * each : stop - first * each]

    return replace(source, shape=shape, read=read)


def joined(parts: Sequence[Source], name: str, shape: tuple[int, ...]) -> Source:
    """The rows of one after the other. Raises CheckpointError where a part has another row or type than the first."""
    for part in parts:
        if (part.shape[1:], part.type) != (parts[0].shape[1:], parts[0].type):
            found = f"{part.type.name} {list(part.shape)}"
            expected = f"{parts[0].type.name} {list(parts[0].shape)}, as {parts[0].name}"
            raise CheckpointError(part.path, part.name, expected=expected, found=found)
    ends = np.cumsum([0, *(part.rows for part in parts)]).tolist()

    def read(start: int, stop: int) -> Bytes:
        pieces = [
            part.read(max(start, first) - first, min(stop, end) - first)
            for part, (first, end) in zip(parts, pairwise(ends), strict=True)
            if start < end and first < stop
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    return Source(parts[0].path, name, shape, parts[0].type, read)


def transposed(source: Source) -> Source:
    """Each matrix [.., rows, cols] turned to [.., cols, rows]; a matrix is read whole."""
    *outer, height, width = source.shape

    def read(start: int, stop: int) -> Bytes:
        found = np.empty((stop - start, height), _word(source))
        for first in range(start // width * width, stop, width):
            whole = source.read(first // width * height, (first // width + 1) * height).view(_word(source))
            low, high = max(start, first), min(stop, first + width)
            found[low - start : high - start] = whole[:, low - first : high - first].T
        return found.view(np.uint8)

    return replace(source, shape=(*outer, width, height), read=read, together=width)


def _word(source: Source) -> str:
    """A weight's bytes as one number, which numpy moves at once."""
    return f"u{source.type.bytes}"
