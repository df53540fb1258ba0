"""What the parent asks the moments' operation for, and what it is told; see moments.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Collected", "Input", "Range", "Seen"]


@dataclass(frozen=True, slots=True)
class Input:
    """What one or more weights are multiplied with, named after the first of them.

    `matrices` of `cols` columns each: the planes of the weights, or experts. `rows` of each come from a token, of
    experts together: the number of them that a token is routed to; in as many products an evaluation as `visits` says.
    """

    name: str
    weights: tuple[str, ...]
    cols: int
    matrices: int
    rows: int
    routed: bool
    visits: int = 1


@dataclass(frozen=True, slots=True)
class Range:
    """The matrices [first, last) of an input, whose moments are kept in diagonal blocks of these widths."""

    input: Input
    first: int
    last: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the matrices of a range saw: int64 [last - first] tokens in the sums, and in the sample."""

    counts: NDArray[np.int64]
    sampled: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Collected:
    """Of one matrix: the packed sums of x xᵀ (see strips.py), float32, and the sample, float32 [n, cols]."""

    name: str
    matrix: int
    sums: NDArray[np.float32]
    sample: NDArray[np.float32]
