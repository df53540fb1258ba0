"""What the core is told of second moments (native/compensate.hpp): the order of columns, and H = U D Uᵀ.

The factorization is blocked, from the last panel of columns to the first: float32 products with the panels behind, each
added in float64, then LAPACK's Cholesky of the panel's own 256 columns in float64. What is lost is what the core's
float32 factor loses in any case (measured: 2e-5 of D, 6e-6 of U, at 1 % damping), at less than half the time and a
quarter of the memory of a factorization in float64: there is no other square than H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from quantpress import _native
from quantpress.arrays import Floats
from quantpress.formats import TensorType

__all__ = ["Factor", "code_width", "factorize", "knows"]

_PANEL = 256  # as in native/compensate.hpp
_WIDTHS: Mapping[str, int] = MappingProxyType(_native.code_widths())


@dataclass(frozen=True, eq=False, slots=True)
class Factor:
    """What the core is told of consecutive columns [cols]: see native/compensate.hpp."""

    panels: Floats  # U, by panels of 256 columns
    diagonal: Floats  # D, in the order taken
    importance: Floats  # by column
    order: NDArray[np.int32]  # the column that is taken at each place

    @property
    def nbytes(self) -> int:
        """Of all of it."""
        return self.panels.nbytes + self.diagonal.nbytes + self.importance.nbytes + self.order.nbytes


def knows(type: TensorType) -> bool:
    """Whether a type has codes that can be chosen one after another."""
    return type.name in _WIDTHS


def code_width(type: TensorType) -> int:
    """Weights that share a code: 1, 4 or 8."""
    return _WIDTHS[type.name]


def factorize(second: Floats, type: TensorType, damping: float) -> Factor:
    """Factor second moments H, float32 [n, n], for a type; `damping` is relative to the mean of the diagonal.

    A column that no input has touched, and an H of fewer tokens than columns, are singular without damping. Raises
    LinAlgError for what is not positive definite with it.
    """
    squares = second.diagonal()
    order = _order(squares, type)
    added = damping * (mean := float(squares.mean(dtype=np.float64)) or 1.0)
    panels, diagonal = _panels(second, order, added)
    by_column = np.empty(len(second))
    by_column[order] = diagonal
    importance = np.sqrt(by_column * (squares + added)) / mean
    return Factor(panels, (diagonal / mean).astype(np.float32), importance.astype(np.float32), order)


def _order(squares: Floats, type: TensorType) -> NDArray[np.int32]:
    """Columns by blocks, and by groups of those that codes share; the largest sums of squares first."""
    group = 1 if code_width(type) == 1 else 8
    masses = squares.reshape(-1, type.block // group, group).sum(axis=2, dtype=np.float64)
    blocks = np.argsort(-masses.sum(axis=1), kind="stable")
    groups = np.argsort(-masses[blocks], axis=1, kind="stable") + blocks[:, None] * (type.block // group)
    order: NDArray[np.int32] = (groups[..., None] * group + np.arange(group)).ravel().astype(np.int32)
    return order


def _panels(second: Floats, order: NDArray[np.int32], added: float) -> tuple[Floats, NDArray[np.float64]]:
    """U, packed, and D of H + `added` on its diagonal."""
    cols = len(second)
    starts = range(0, cols, _PANEL)
    ends = [min(first + _PANEL, cols) for first in starts]
    sizes = [end * (end - first) for first, end in zip(starts, ends, strict=True)]
    packed, diagonal = np.empty(sum(sizes), np.float32), np.empty(cols)
    parts = np.split(packed, np.cumsum(sizes)[:-1])
    panels: list[tuple[slice, Floats]] = []  # [rows up to the last of its columns, columns], the last panel first
    for first, end, part in reversed(list(zip(starts, ends, parts, strict=True))):
        own, found = slice(first, end), part.reshape(end, end - first)
        rest = second[order[own]][:, order[:end]].T.astype(np.float64, order="C")
        rest[own].flat[:: end - first + 1] += added
        for behind, panel in panels:
            weighted = panel[own] * diagonal[behind].astype(np.float32)
            rest -= panel[:end] @ weighted.T
        upper = np.linalg.cholesky(rest[own][::-1, ::-1])[::-1, ::-1]  # of columns in reverse
        root = upper.diagonal()
        inverse = (np.linalg.inv(upper).T / root).astype(np.float32)
        np.matmul(rest[:first].astype(np.float32), inverse, out=found[:first])
        found[own] = upper / root
        panels.append((own, found))
        diagonal[own] = root**2
    return packed, diagonal
