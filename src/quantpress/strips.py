"""The upper triangle of symmetric matrices, packed: strips of 256 rows, each from its first column on.

    ┌───┬───┬───┐   strip 0: rows 0 … 255 × columns 0 … n
    │ 0   0   0 │   strip 1: rows 256 … 511 × columns 256 … n
    │   ┌───────┤   …, row after row, one strip after another
    │   │ 1   1 │
    │   │   ┌───┤   A strip is one matrix product of its columns with all that follow: half the work and half the room
    │   │   │ 2 │   of the square, at the speed of full products, which a true triangle would not have.
    └───┴───┴───┘

A matrix wider than a limit is kept as diagonal blocks, each with strips of its own, one block after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROWS", "Strip", "blocks_of", "packed_size", "strips", "unpacked"]

ROWS = 256


class Strip(NamedTuple):
    """Rows [first, last) × columns [first, end) of a matrix, at [start, stop) of its packed values."""

    first: int
    last: int
    end: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.last - self.first, self.end - self.first


def blocks_of(cols: int, width: int) -> tuple[int, ...]:
    """Widths of the diagonal blocks of a matrix: one, or as few and as even as `width` columns at most allow.

    `width` is at least 256; all blocks but the last are multiples of 256 wide.
    """
    if cols <= width:
        return (cols,)
    units, most = -(-cols // ROWS), width // ROWS
    count = -(-units // most)
    widths = [ROWS * (units // count + (i < units % count)) for i in range(count)]
    widths[-1] -= units * ROWS - cols
    return tuple(widths)


def strips(blocks: Sequence[int]) -> Iterator[Strip]:
    """The strips of a matrix with these diagonal blocks, in their order."""
    begin = start = 0
    for width in blocks:
        end = begin + width
        for first in range(begin, end, ROWS):
            last = min(first + ROWS, end)
            stop = start + (last - first) * (end - first)
            yield Strip(first, last, end, start, stop)
            start = stop
        begin = end


def packed_size(blocks: Sequence[int]) -> int:
    """The values of a packed matrix."""
    return max(strip.stop for strip in strips(blocks))


def unpacked(packed: NDArray[np.float32], blocks: Sequence[int]) -> tuple[NDArray[np.float32], ...]:
    """Packed values to square float32 blocks [n, n], symmetric whatever the values are: the upper triangle counts."""
    found = {end: np.empty((width, width), np.float32) for end, width in zip(np.cumsum(blocks), blocks, strict=True)}
    for strip in strips(blocks):
        square, rows = found[strip.end], packed[strip.start : strip.stop].reshape(strip.shape)
        begin = strip.end - len(square)
        first, last = strip.first - begin, strip.last - begin
        corner = rows[:, : last - first]
        square[first:last, last:] = rows[:, last - first :]
        square[last:, first:last] = rows[:, last - first :].T
        square[first:last, first:last] = np.triu(corner) + np.triu(corner, 1).T
    return tuple(found.values())
