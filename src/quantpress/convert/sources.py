"""Where the rows of a tensor come from. A transform wraps a source in another; rows are read one tile at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from quantpress.floats import Floats
from quantpress.safetensors import StoredTensor

__all__ = ["Source", "only_vocabulary", "plus_one", "stored"]

_TILE_WEIGHTS = 1 << 18  # the steps of a conversion then meet in the cache


@dataclass(frozen=True)
class Source:
    """A tensor to be: `path` and `name` are the checkpoint's, for messages; `shape` outermost first.

    `read(start, stop)` gives rows as float32 [stop - start, shape[-1]]; all dimensions but the innermost count as rows.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Floats]

    def tiles(self) -> Iterator[tuple[int, Floats]]:
        """All rows in order: (number of the first, float32 [rows, cols]), about 1 MB at a time."""
        rows = math.prod(self.shape[:-1])
        step = max(1, _TILE_WEIGHTS // self.shape[-1])
        for start in range(0, rows, step):
            yield start, self.read(start, min(start + step, rows))


def stored(tensor: StoredTensor) -> Source:
    """A tensor as the checkpoint has it."""
    return Source(tensor.path, tensor.name, tensor.shape, tensor.read)


def plus_one(source: Source, sizes: Mapping[str, int]) -> Source:
    """One more than the stored weight: Gemma keeps its norms' weights as the difference from 1."""
    del sizes
    return replace(source, read=lambda start, stop: source.read(start, stop) + np.float32(1))


def only_vocabulary(source: Source, sizes: Mapping[str, int]) -> Source:
    """The rows that have a token; checkpoints pad the embedding to a round number of rows."""
    return replace(source, shape=(min(source.shape[0], sizes["vocabulary"]), *source.shape[1:]))
