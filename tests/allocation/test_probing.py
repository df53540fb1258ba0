"""Slopes from probes on a model of damage whose scales are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from quantpress.allocation import probing
from quantpress.allocation.candidates import Group
from quantpress.allocation.damage import scales
from quantpress.allocation.probing import probe
from quantpress.allocation.target import Spend
from quantpress.sensitivity import Observed
from tests.allocation.synthetic import Truth, problem


def test_slopes_are_the_true_scales() -> None:
    truth = Truth(problem(4), cross=0, noise=0.01)
    observed: Observed = {}
    probe(truth.problem, truth, Spend(), observed)
    for name, scale in zip(truth.problem.names, truth.scales, strict=True):
        assert len(observed[name]) == 2
        for one in observed[name]:
            assert one.error > 0
            assert abs(one.slope - scale) < 5 * one.error + 1e-3 * scale


def test_scales_from_probes_are_nearer_than_what_is_known_beforehand() -> None:
    truth = Truth(problem(5), cross=0)
    observed: Observed = {}
    probe(truth.problem, truth, Spend(), observed)
    off = [
        np.abs(np.log(np.array([one.value for one in scales(truth.problem.roles, seen).values()]) / truth.scales))
        for seen in (observed, {})
    ]
    assert off[0].mean() < 0.5 * off[1].mean()


def test_a_probe_changes_its_groups_alone() -> None:
    truth = Truth(problem(4))
    probe(truth.problem, truth, Spend(), {})
    count = len(truth.problem.groups)
    assert len(truth.calls) == 2 * (count + 1)
    for round_ in (truth.calls[: count + 1], truth.calls[count + 1 :]):
        differing = [[at for at in range(count) if one[at] != round_[0][at]] for one in round_[1:]]
        assert sorted(differing) == [[at] for at in range(count)]


@pytest.mark.parametrize("probes", [1, 4, 5, 6, 8, 9, 13, 20, 40, 60, 90])
def test_keeps_to_its_share_of_what_may_be_spent(probes: int) -> None:
    """Fewer probes than roles tell of none; more groups than probes are probed together, each as often as the rest."""
    truth, spend, observed = Truth(problem(8)), Spend(probes=probes), Observed()
    probe(truth.problem, truth, spend, observed)
    assert spend.done == len(truth.calls) <= 0.75 * probes
    counts = Counter(len(observed.get(name, ())) for name in truth.problem.names)
    assert len(counts) == 1
    assert (min(counts) > 0) == (probes >= 8)  # 4 roles and a context are 5


def test_clusters_are_neighbours_of_a_role() -> None:
    one = problem(8)
    every = list(range(len(one.groups)))
    for limit in (0, 3):
        assert probing._clusters(one, {}, 0, limit) == []
    for limit in (4, 7, 11, 25, 1000):
        found = probing._clusters(one, {}, 0, limit)
        assert len(found) <= limit
        assert sorted(at for members in found for at in members) == every
        for members in found:
            roles = [list(one.roles.values())[at] for at in members]
            assert len(set(roles)) == 1
            assert members == list(range(members[0], members[-1] + 1, 3))
    assert probing._clusters(one, {}, 0, 25) == sorted(([at] for at in every), key=lambda at: (at[0] == 24, at[0] % 3))


def test_what_was_observed_is_not_probed_again() -> None:
    truth, observed = Truth(problem(4)), Observed()
    saved: list[int] = []
    probe(truth.problem, truth, Spend(), observed, save=lambda: saved.append(sum(map(len, observed.values()))))
    assert saved == list(range(1, 2 * len(truth.problem.groups) + 1))
    truth.calls.clear()
    before = {name: list(found) for name, found in observed.items()}
    probe(truth.problem, truth, Spend(), observed)
    assert (truth.calls, observed) == ([], before)
    del observed["output.weight"]
    probe(truth.problem, truth, Spend(), observed)
    assert len(truth.calls) == 2 * 2  # a context and the one group, twice
    assert {name: len(found) for name, found in observed.items()} == dict.fromkeys(truth.problem.names, 2)


def test_a_group_without_a_choice_is_left_out() -> None:
    one = problem(2)
    bare = Group(one.groups[0].names, one.groups[0].types[-1:], one.groups[0].nbytes[-1:])
    one = replace(one, groups=(bare, *one.groups[1:]), errors=(one.errors[0][-1:], *one.errors[1:]))
    truth, observed = Truth(one), Observed()
    for _ in range(2):
        probe(one, truth, Spend(), observed)
        assert set(observed) == set(truth.problem.names[1:])
        assert len(truth.calls) == 2 * len(one.groups)


def test_a_group_that_has_its_own_type_in_the_context_is_probed_as_well() -> None:
    """A tensor so small that its bytes do not matter: the knapsack gives it what is left over."""
    one = problem(3)
    first = Group(one.groups[0].names, one.groups[0].types, tuple(range(1, 8)))
    one = replace(one, groups=(first, *one.groups[1:]))
    truth, observed = Truth(one, cross=0), Observed()
    probe(one, truth, Spend(), observed)
    assert truth.calls[0][0] == len(first.types) - 1
    assert all(np.isfinite(seen.slope) and seen.error > 0 for seen in observed[truth.problem.names[0]])
    seen = observed[truth.problem.names[0]][0]
    assert abs(seen.slope - truth.scales[0]) < 5 * seen.error


def test_tensors_of_zeros_have_no_slope() -> None:
    """Every type holds them exactly: their errors are that of rounding, which is the same in all types."""
    one = problem(3)
    one = replace(one, errors=(np.full_like(one.errors[0], 4e-5), *one.errors[1:]))
    observed: Observed = {}
    probe(one, Truth(one), Spend(), observed)
    assert set(observed) == set(one.names[1:])
