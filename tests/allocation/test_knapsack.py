"""The knapsack against every choice there is, and against the bounds that hold where there are too many."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpress.allocation.knapsack import Solution, solve
from quantpress.errors import PlanError
from quantpress.formats import TYPES

BITS = np.array([type.bits_per_weight for type in TYPES.values() if type.quantized])
Items = list[np.ndarray]


def sizes(solution: Solution, nbytes: Items) -> int:
    return sum(int(one[j]) for one, j in zip(nbytes, solution.choice, strict=True))


def check(solution: Solution, nbytes: Items, damage: Items, budget: int) -> None:
    """What a solution says of itself is so."""
    assert solution.nbytes == sizes(solution, nbytes) <= budget
    assert solution.damage == math.fsum(one[j] for one, j in zip(damage, solution.choice, strict=True))
    assert 0 <= solution.gap < 1


def brute(nbytes: Items, damage: Items, budget: int) -> float:
    """The least damage, by looking at every choice."""
    every = itertools.product(*(range(len(one)) for one in nbytes))
    pairs = ((sum(int(b[j]) for b, j in zip(nbytes, choice, strict=True)), choice) for choice in every)
    return min(math.fsum(d[j] for d, j in zip(damage, choice, strict=True)) for size, choice in pairs if size <= budget)


def extent(nbytes: Items) -> tuple[int, int]:
    return sum(int(one.min()) for one in nbytes), sum(int(one.max()) for one in nbytes)


def realistic(count: int, seed: int, weights: Sequence[int] = (2560 * 2048, 2560 * 1024, 2560 * 10240)) -> tuple:
    """w · 4^-bits with noise; one tensor is as large as a vocabulary."""
    draw = np.random.default_rng(seed)
    each = np.array([weights[i % len(weights)] for i in range(count)])
    each[0] *= 25
    nbytes = [(weights * BITS / 8).astype(np.int64) for weights in each]
    scale = each * draw.lognormal(0, 1.5, count)
    return nbytes, [one * 4.0**-BITS * draw.lognormal(0, 0.2, BITS.size) for one in scale]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Items, Items, int]:
    """Few options, sizes that often coincide, damages over many orders of magnitude or equal."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    unit = draw(st.sampled_from([1, 32, 1 << 33]))
    size = st.integers(0, draw(st.sampled_from([5, 1000, 10**6])))
    harm = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(-8, 0).map(lambda power: 10.0**power))
    nbytes = [np.array(draw(st.lists(size, min_size=n, max_size=n)), np.int64) * unit for n in counts]
    damage = [np.array(draw(st.lists(harm, min_size=n, max_size=n))) for n in counts]
    low, high = extent(nbytes)
    return nbytes, damage, draw(st.integers(low, high + 1))


@settings(max_examples=100, deadline=None)
@given(problems())
def test_finds_the_best_of_every_choice(problem: tuple[Items, Items, int]) -> None:
    nbytes, damage, budget = problem
    found = solve(nbytes, damage, budget, seconds=10)
    check(found, nbytes, damage, budget)
    assert found.gap == 0
    assert found.damage == pytest.approx(brute(nbytes, damage, budget), rel=1e-9, abs=0)


@pytest.mark.parametrize("seed", range(4))
def test_finds_the_best_of_realistic_tensors(seed: int) -> None:
    """Damage that is smooth in the size: the hardest for a bound, because many choices are nearly as good."""
    draw = np.random.default_rng(seed)
    nbytes, damage = realistic(5, seed)
    picked = [np.sort(draw.choice(BITS.size, 6, replace=False)) for _ in nbytes]
    nbytes = [one[at] for one, at in zip(nbytes, picked, strict=True)]
    damage = [one[at] for one, at in zip(damage, picked, strict=True)]
    low, high = extent(nbytes)
    for share in (0.02, 0.2, 0.5, 0.9):
        budget = int(low + share * (high - low))
        found = solve(nbytes, damage, budget, seconds=10)
        check(found, nbytes, damage, budget)
        assert found.gap == 0
        assert found.damage == pytest.approx(brute(nbytes, damage, budget), rel=1e-9)


def test_what_another_option_beats_is_not_chosen() -> None:
    nbytes = [np.array([10, 20, 20, 30, 10]), np.array([5, 6])]
    damage = [np.array([4.0, 1.0, 2.0, 1.0, 5.0]), np.array([3.0, 3.0])]
    assert solve(nbytes, damage, 1000) == Solution((1, 0), 25, 4.0, 0.0)


def test_the_first_of_equal_options_is_chosen() -> None:
    nbytes, damage = [np.array([8, 4, 4, 8])] * 3, [np.array([1.0, 2.0, 2.0, 1.0])] * 3
    assert solve(nbytes, damage, 12).choice == (1, 1, 1)
    assert solve(nbytes, damage, 24).choice == (0, 0, 0)
    assert sorted(solve(nbytes, damage, 17).choice) == [0, 1, 1]


def test_equal_damages_cost_no_bytes() -> None:
    nbytes, damage = [np.array([7, 3, 9])] * 4, [np.full(3, 0.5)] * 4
    assert solve(nbytes, damage, 30) == Solution((1,) * 4, 12, 2.0, 0.0)


def test_budgets_at_the_bounds() -> None:
    nbytes, damage = realistic(30, 1)
    low, high = extent(nbytes)
    smallest, largest = solve(nbytes, damage, low), solve(nbytes, damage, high)
    assert (smallest.nbytes, smallest.gap) == (low, 0)
    assert largest == solve(nbytes, damage, 10 * high)
    assert (largest.damage, largest.gap) == (math.fsum(one.min() for one in damage), 0)
    message = re.escape(f"budget: expected {low:,} bytes (the smallest choice) to {high:,} (the largest), found")
    with pytest.raises(PlanError, match=f"{message} {low - 1:,} bytes"):
        solve(nbytes, damage, low - 1)


def test_no_damage_at_all() -> None:
    assert solve([np.array([2, 1])] * 2, [np.array([0.0, 1e-300])] * 2, 4) == Solution((0, 0), 4, 0.0, 0.0)


def test_nothing_to_choose() -> None:
    assert solve([], [], 0) == Solution((), 0, 0.0, 0.0)
    assert solve([np.array([3])], [np.array([2.0])], 3) == Solution((0,), 3, 2.0, 0.0)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_model_of_31_billion_weights(share: float) -> None:
    """Sums beyond 2^32 and a budget that only odd pieces fill: summed up in integers, it still holds."""
    nbytes, damage = realistic(200, 3, (5376 * 8192, 5376 * 21504, 5376 * 4096))
    nbytes = [one // 32 * 32 + 32 * (number % 7) for number, one in enumerate(nbytes)]
    low, high = extent(nbytes)
    assert high > 1 << 33
    budget = int(low + share * (high - low)) + 1
    found = solve(nbytes, damage, budget, seconds=0.5)
    check(found, nbytes, damage, budget)
    assert found.gap < 1e-3
    assert budget - found.nbytes < max(int(one.max()) for one in nbytes)


def test_the_scale_of_damages_does_not_matter() -> None:
    nbytes, damage = realistic(40, 5)
    low, high = extent(nbytes)
    first = solve(nbytes, damage, (low + high) // 2, seconds=10)
    for factor in (2.0**-60, 2.0**60):
        other = solve(nbytes, [one * factor for one in damage], (low + high) // 2, seconds=10)
        assert (other.choice, other.gap) == (first.choice, first.gap)


def test_the_same_numbers_give_the_same_choice() -> None:
    nbytes, damage = realistic(60, 7)
    budget = sum(extent(nbytes)) // 3
    assert solve(nbytes, damage, budget, seconds=10) == solve(nbytes, damage, budget, seconds=10)


@pytest.mark.parametrize("seed", range(4))
def test_without_time_the_gap_is_stated_and_holds(seed: int) -> None:
    nbytes, damage = realistic(25, seed)
    low, high = extent(nbytes)
    for share in (0.03, 0.3, 0.7):
        budget = int(low + share * (high - low))
        hurried, best = (solve(nbytes, damage, budget, seconds=seconds) for seconds in (0, 20))
        check(hurried, nbytes, damage, budget)
        assert best.gap == 0
        assert best.damage <= hurried.damage
        assert hurried.damage * (1 - hurried.gap) <= best.damage * (1 + 1e-12)
        assert best.damage == hurried.damage or hurried.gap > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_damages_that_are_none(value: float) -> None:
    with pytest.raises(PlanError, match=r"damage of item 1: expected finite numbers, 0 or more"):
        solve([np.array([1]), np.array([1, 2])], [np.array([1.0]), np.array([1.0, value])], 3)


def test_items_without_options() -> None:
    with pytest.raises(PlanError, match=r"options of item 0: expected bytes and as many damages, found shapes \(0,\)"):
        solve([np.array([], np.int64)], [np.array([])], 3)
