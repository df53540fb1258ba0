"""A layer's inputs in a float model, x, and in the quantized one, y: sums over tokens, and what to make of them.

The matrix that does to y what W does to x, in the least squares, is W X Yᵀ (Y Yᵀ)⁻¹, or with C = X Yᵀ and H = Y Yᵀ

    W + W (C - H) H⁻¹

(GPTAQ, Li et al. 2025; QEP, Arai and Ichikawa 2025). It repairs what the layers before have done. Fitted to some tokens
it does less for others: H is given a ridge, and the step only a share of its length, both chosen on tokens that are in
no sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantpress.arrays import Floats
from quantpress.strips import ROWS

__all__ = ["Held", "Pairs", "Step", "best_step"]

RIDGES = (0.1, 0.3, 1.0)  # of the mean diagonal

Doubles = NDArray[np.float64]


class Held(NamedTuple):
    """Rows of the same tokens, that are in no sum: float32 [n, cols] each."""

    x: Floats
    y: Floats

    def missed(self, weights: Floats, others: Floats) -> float:
        """Σ (x · w - y · w')² over rows and weights, float32 [rows, cols] both."""
        return float(np.square(self.x @ weights.T - self.y @ others.T, dtype=np.float64).sum())


class Pairs:
    """Sums over tokens: `second` Σ y yᵀ and `cross` Σ x yᵀ, float64 [cols, cols]."""

    def __init__(self, cols: int) -> None:
        self.second, self.cross = np.zeros((cols, cols)), np.zeros((cols, cols))

    def add(self, x: Floats, y: Floats, pool: Executor) -> None:
        """Add rows of the same tokens, float32 [n, cols]; the sums do not depend on the number of threads."""
        list(pool.map(partial(self._add, x, y), range(0, y.shape[1], ROWS)))

    def _add(self, x: Floats, y: Floats, first: int) -> None:
        some = slice(first, first + ROWS)
        self.second[some] += y[:, some].T @ y
        self.cross[some] += x[:, some].T @ y

    def change(self, weights: Floats, new: Floats, old: Floats) -> Doubles:
        """What encodings `new` of rows w cost on these tokens, Σ (w · x - new · y)², less what others of them cost.

        float32 [rows, cols] each, float64 [rows]. Made of differences only: the costs themselves would cancel out.
        """
        second, apart = self._single
        slope = (new + old - 2 * weights) @ second + 2 * (weights @ apart)
        found: Doubles = np.einsum("ij,ij->i", new - old, slope, dtype=np.float64)
        return found

    @cached_property
    def _single(self) -> tuple[Floats, Floats]:
        return self.second.astype(np.float32), (self.second - self.cross).astype(np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """From rows W to those to encode: W + `share` × W (C - H) (H + `ridge` × mean(diag H))⁻¹.

    `left`: the squares of what the layer's output then misses on held-out tokens, relative to those without a step.
    """

    share: float
    ridge: float
    left: float
    move: Floats | None  # float32 [cols, cols]: what W is multiplied with; None: no step

    def of(self, weights: Floats) -> Floats:
        """The rows to encode in place of these, float32 [rows, cols]."""
        return weights if self.move is None else weights + weights @ self.move


def best_step(pairs: Pairs, held: Held, some: Floats, ridges: Sequence[float] = RIDGES) -> Step:
    """The step that serves held-out tokens best, judged by some rows of weights, float32 [rows, cols]."""
    gap = (held.x - held.y) @ some.T
    before = float(np.square(gap, dtype=np.float64).sum())
    best = 0.0, 0.0, 1.0
    for ridge in ridges if before else ():
        moved = held.y @ _moved(pairs, some.astype(np.float64) @ (pairs.cross - pairs.second), ridge).T
        length = float(np.square(moved, dtype=np.float64).sum())
        share = float(np.clip(np.vdot(gap, moved) / length, 0, 1)) if length else 0.0
        left = float(np.square(gap - share * moved, dtype=np.float64).sum()) / before
        best = min(best, (share, ridge, left), key=lambda one: one[2])
    share, ridge, _ = best
    return Step(*best, np.float32(share) * _moved(pairs, pairs.cross - pairs.second, ridge) if share else None)


def _moved(pairs: Pairs, rows: Doubles, ridge: float) -> Floats:
    """Rows (H + ridge)⁻¹."""
    damped = pairs.second.copy()
    damped.flat[:: len(damped) + 1] += ridge * (float(damped.diagonal().mean()) or 1.0)
    found: Floats = np.linalg.solve(damped, rows.T).T.astype(np.float32)
    return found
