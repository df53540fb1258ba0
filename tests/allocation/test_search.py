"""The search on a model of damage whose optimum is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from quantpress.allocation.damage import Scale, scales
from quantpress.allocation.probing import probe
from quantpress.allocation.problem import Choice, Divergences
from quantpress.allocation.search import Candidate, search
from quantpress.allocation.target import Spend
from quantpress.sensitivity import Observed
from tests.allocation.synthetic import KINDS, POSITIONS, Truth, nbytes, optimum, problem

FEW = ("Q2_K", "Q4_K", "Q6_K", "Q8_0", "BF16")


def fitted(truth: Truth) -> dict[str, Scale]:
    """The true scales."""
    return {name: Scale(float(one), 0.0) for name, one in zip(truth.problem.names, truth.scales, strict=True)}


def guessed(truth: Truth) -> dict[str, Scale]:
    return scales(truth.problem.roles, {})


@pytest.mark.parametrize(("seed", "share"), [(0, 0.3), (1, 0.1), (2, 0.2)])
def test_comes_near_to_the_optimum(seed: int, share: float) -> None:
    truth = Truth(problem(2, kinds=FEW, share=share, seed=seed), seed=seed + 10)
    best = optimum(truth)
    found = search(truth.problem, truth, Spend(probes=40), fitted(truth), seed=seed)
    assert best * (1 - 1e-12) <= truth.damage(found[-1].choice) <= 1.05 * best


@pytest.mark.parametrize("seed", range(2))
def test_probes_and_search_together_beat_what_is_known_beforehand(seed: int) -> None:
    truth = Truth(problem(2, kinds=FEW, seed=seed), seed=seed + 20)
    best, spend = optimum(truth), Spend(probes=50)
    observed: Observed = {}
    probe(truth.problem, truth, spend, observed)
    found = search(truth.problem, truth, spend, scales(truth.problem.roles, observed))
    blind = search(truth.problem, truth, Spend(probes=1), guessed(truth))
    assert truth.damage(found[-1].choice) <= 1.2 * best
    assert truth.damage(found[-1].choice) <= truth.damage(blind[-1].choice)


@pytest.mark.parametrize("seed", [0, 2])
def test_every_incumbent_was_measured_fits_and_is_better(seed: int) -> None:
    truth = Truth(problem(3, kinds=FEW, seed=seed), cross=0.1)
    found = search(truth.problem, truth, Spend(probes=9), guessed(truth), seed=seed)
    assert len(found) > 1
    assert found[0].choice == truth.problem.solve(truth.problem.damages(guessed(truth)))[0] == truth.calls[0]
    for one in found:
        assert one.choice in truth.calls
        assert nbytes(truth.problem, one.choice) <= truth.problem.budget
        np.testing.assert_array_equal(one.kld, Truth(truth.problem, cross=0.1)(one.choice))
    means = [one.mean for one in found]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) == len(means)
    assert all(later.better(earlier) for earlier, later in pairwise(found))
    assert len(set(truth.calls)) == len(truth.calls)


@pytest.mark.parametrize("probes", [1, 2, 9])
def test_spends_what_is_allowed(probes: int) -> None:
    truth, spend = Truth(problem(5)), Spend(probes=probes)
    found = search(truth.problem, truth, spend, guessed(truth))
    assert spend.done == len(truth.calls) == probes
    assert spend.left() == 0
    if probes == 1:
        assert [one.choice for one in found] == truth.calls


def test_with_nothing_left_the_first_is_measured_all_the_same() -> None:
    truth, spend = Truth(problem(2)), Spend(probes=3, done=3)
    assert len(search(truth.problem, truth, spend, guessed(truth))) == len(truth.calls) == 1


def test_stops_when_nothing_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantpress.allocation.search._PATIENCE", 9)
    calls: list[Choice] = []

    def level(choice: Choice) -> Divergences:
        calls.append(choice)
        return np.ones(POSITIONS)

    truth = Truth(problem(3))
    assert len(search(truth.problem, level, Spend(), guessed(truth))) == 1
    assert len(calls) == 10


def test_stops_where_there_is_no_other_choice() -> None:
    one = problem(1)
    for budget in (sum(group.nbytes[0] for group in one.groups), 10**12):
        truth = Truth(replace(one, budget=budget))
        search(truth.problem, truth, Spend(), guessed(truth))
        assert len(truth.calls) == 1


def test_the_seed_decides() -> None:
    choices = []
    for seed in (3, 3, 4):
        truth = Truth(problem(4))
        search(truth.problem, truth, Spend(probes=4), guessed(truth), seed=seed)
        choices.append(truth.calls)
    assert choices[0] == choices[1] != choices[2]


def test_a_lower_mean_with_rare_large_errors_is_no_better() -> None:
    """2 % of the positions far worse, the others far better."""
    draw = np.random.default_rng(0)
    even = draw.exponential(size=POSITIONS)
    limit = float(np.percentile(even, 99))
    rare = even * 0.5
    rare[draw.choice(POSITIONS, POSITIONS // 50, replace=False)] = 10
    assert rare.mean() < even.mean() - 0.2
    assert Candidate((1,), rare).better(Candidate((0,), even))
    assert not Candidate((1,), rare, limit).better(Candidate((0,), even, limit))
    assert Candidate((1,), even * 0.5, limit).better(Candidate((0,), even, limit))
    mild = np.where(even > np.percentile(even, 98), even * 1.03, even * 0.5)
    assert Candidate((1,), mild, limit).better(Candidate((0,), even, limit))


def test_the_search_keeps_to_that() -> None:
    truth = Truth(problem(4))
    first = truth.problem.solve(truth.problem.damages(guessed(truth)))[0]
    draw = np.random.default_rng(1)
    base = draw.exponential(size=POSITIONS)
    bad = np.where(draw.uniform(size=POSITIONS) < 0.02, 10, 0.5 * base)
    limit = float(np.percentile(base, 99))
    found = search(
        truth.problem,
        lambda choice: base if choice == first else bad,
        Spend(probes=8),
        guessed(truth),
        limit=limit,
    )
    assert [one.choice for one in found] == [first]


def test_a_difference_within_its_error_is_none() -> None:
    draw = np.random.default_rng(2)
    one = Candidate((0,), draw.exponential(size=400))
    noise = draw.normal(0, 0.02, 400)
    noise -= noise.mean()
    error = noise.std() / np.sqrt(399)
    assert not Candidate((1,), one.kld + noise - 0.9 * error).better(one)
    assert Candidate((1,), one.kld + noise - 1.1 * error).better(one)
    assert not one.better(one)


def test_kinds_are_in_order() -> None:
    """What the helpers rely on."""
    for group in problem(1).groups:
        assert list(group.nbytes) == sorted(group.nbytes)
        assert len(group.types) == len(KINDS)
