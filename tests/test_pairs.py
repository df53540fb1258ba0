"""Sums of pairs and the step that they say, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from quantpress.arrays import Floats
from quantpress.pairs import RIDGES, Held, Pairs, best_step


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as found:
        yield found


def rows(count: int, cols: int, seed: int) -> Floats:
    """Of a third as many causes as columns, and columns of different size."""
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((cols // 3, cols)) * np.exp(np.linspace(-1, 1, cols))
    return (draw.standard_normal((count, cols // 3)) @ mixing + draw.standard_normal((count, cols))).astype(np.float32)


def noisy(x: Floats, gain: float, noise: float, seed: int) -> Floats:
    draw = np.random.default_rng(seed)
    return (gain * x + noise * draw.standard_normal(x.shape)).astype(np.float32)


def summed(parts: list[tuple[Floats, Floats]], pool: ThreadPoolExecutor) -> Pairs:
    pairs = Pairs(parts[0][0].shape[1])
    for x, y in parts:
        pairs.add(x, y, pool)
    return pairs


@pytest.mark.parametrize("cols", [96, 256, 600])
def test_sums(pool: ThreadPoolExecutor, cols: int) -> None:
    x = [rows(300, cols, seed) for seed in (1, 2)]
    y = [noisy(one, 0.9, 0.3, 7) for one in x]
    found = summed(list(zip(x, y, strict=True)), pool)
    exact_x, exact_y = (np.concatenate(one).astype(float) for one in (x, y))
    for sums, left in ((found.second, exact_y), (found.cross, exact_x)):
        scale = np.sqrt(np.outer((left**2).sum(axis=0), (exact_y**2).sum(axis=0)))
        assert (np.abs(sums - left.T @ exact_y) <= 1e-6 * scale).all()
    w, new, old = rows(5, cols, 3), rows(5, cols, 4), rows(5, cols, 5)
    costs = [np.square(w @ exact_x.T - one @ exact_y.T).sum(axis=1) for one in (new, old)]
    np.testing.assert_allclose(found.change(w, new, old), costs[0] - costs[1], rtol=1e-4, atol=1e-4 * max(costs[0]))


def test_a_small_change_of_large_costs(pool: ThreadPoolExecutor) -> None:
    """Encodings that are nearly the same, of inputs some of which are hundreds of times as large."""
    x = rows(3000, 512, 1)
    x[:, [5, 300]] *= 300
    found = summed([(x, noisy(x, 1.0, 0.01, 2))], pool)
    w = rows(64, 512, 3)
    new, old = (noisy(w, 1.0, 0.003, seed) for seed in (4, 5))
    costs = [np.einsum("ij,ij->i", one @ found.second - 2 * (w @ found.cross), one) for one in (new, old)]
    expected = costs[0] - costs[1]
    np.testing.assert_allclose(found.change(w, new, old), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("ridge", RIDGES)
def test_a_step_is_least_squares_with_a_ridge(pool: ThreadPoolExecutor, ridge: float) -> None:
    """numpy's lstsq on the tokens themselves, with rows below them that hold W to what it is."""
    cols = 96
    x = rows(500, cols, 1)
    y, w = noisy(x, 0.8, 0.5, 2), rows(7, cols, 3)
    pairs = summed([(x, y)], pool)
    damping = np.sqrt(ridge * float(np.square(y, dtype=float).sum(axis=0).mean()))
    left = np.concatenate([y.astype(float), damping * np.eye(cols)])
    right = np.concatenate([x.astype(float) @ w.T, damping * w.T])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    found = best_step(pairs, Held(x, noisy(x, 0.8, 0.5, 4)), w, (ridge,))
    assert (found.ridge, found.share > 0.5) == (ridge, True)
    np.testing.assert_allclose(found.of(w), w + found.share * (expected - w), rtol=1e-4, atol=1e-4)


def test_the_best_step_serves_held_out_tokens(pool: ThreadPoolExecutor) -> None:
    """Inputs that came out too small and noisy: most of the step; what it leaves is what it says."""
    x, out = rows(2000, 96, 1), rows(400, 96, 5)
    pairs, held = summed([(x, noisy(x, 0.8, 0.5, 2))], pool), Held(out, noisy(out, 0.8, 0.5, 6))
    w = rows(9, 96, 3)
    step = best_step(pairs, held, w)
    assert 0.8 < step.share <= 1
    assert step.left == pytest.approx(held.missed(w, step.of(w)) / held.missed(w, w), rel=1e-3)
    others = [best_step(pairs, held, w, (ridge,)) for ridge in RIDGES]
    assert step.left == min(one.left for one in others)
    assert step.move is not None
    for share in (0.5, 0.9, 1.1):
        assert held.missed(w, w + np.float32(share) * (w @ step.move)) > step.left * held.missed(w, w)


def test_no_step(pool: ThreadPoolExecutor) -> None:
    """Where nothing differs, where held-out inputs differ the other way, and where the quantized ones are all zero."""
    x, w = rows(500, 96, 1), rows(9, 96, 3)
    same = best_step(summed([(x, x)], pool), Held(x, x), w)
    assert (same.share, same.left, same.move) == (0.0, 1.0, None)
    against = best_step(summed([(x, noisy(x, 0.8, 0, 2))], pool), Held(x, noisy(x, 1.25, 0, 2)), w)
    assert against.move is None
    assert against.of(w) is w
    assert best_step(summed([(x, 0 * x)], pool), Held(x, 0 * x), w).move is None
