"""The search: from the knapsack's choice to its neighbours. What is kept was measured to be better than what it was.

A sum of damages ends where rounding errors of two layers add up or cancel, and only a measurement of the whole tells.
So the knapsack is solved again for scales drawn from around their estimates, with a charge on every change: solutions
that differ from the incumbent in a few groups and should be about as good. Each is measured, and replaces the incumbent
if its divergence on the same positions is lower by more than one standard error of the differences.

A mean can hide rare, large errors. So a candidate whose 99th percentile is above a limit, that of the mix which the
plan is to beat, counts as worse in the same ratio.

`measure` gives the divergence of each position of the search text, in nats; nothing here knows where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantpress.allocation.damage import Scale
from quantpress.allocation.problem import Choice, Divergences, Problem
from quantpress.allocation.target import Spend
from quantpress.evaluate import standard_error
from quantpress.progress import SILENT, Progress

__all__ = ["Candidate", "search"]

_PATIENCE = 30  # proposals in a row that are no better
_STEPS = (0.1, 0.2, 0.35)  # standard deviations of a proposal's scales, in logarithms
_INERTIA = 0.3  # of an incumbent's damage, charged for a change
_TRIES = 20  # to find a proposal that was not measured yet


@dataclass(frozen=True, eq=False)
class Candidate:
    """A choice, the divergence of each position, and the limit of the 99th percentile, in nats."""

    choice: Choice
    kld: Divergences
    limit: float = math.inf

    @property
    def mean(self) -> float:
        """Mean KL divergence, nats."""
        return float(self.kld.mean())

    @property
    def excess(self) -> float:
        """The 99th percentile by its limit, at least 1."""
        return max(1.0, float(np.percentile(self.kld, 99)) / self.limit)

    def better(self, other: Candidate) -> bool:
        """Whether it replaces another: see the module's head."""
        difference = self.excess * self.kld - other.excess * other.kld
        return bool(difference.mean() < -standard_error(difference))


def search(
    problem: Problem,
    measure: Callable[[Choice], Divergences],
    spend: Spend,
    scales: Mapping[str, Scale],
    *,
    limit: float = math.inf,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Candidate]:
    """The incumbents one after the other, the first the knapsack's choice, the last the best within the allowance.

    `limit`: nats, of the 99th percentile; see the module's head. With nothing left to spend, the knapsack's choice is
    measured all the same.
    """
    random = np.random.default_rng(seed)
    damages = problem.damages(scales)
    first = problem.solve(damages)[0]
    spend.done += 1
    incumbents, seen, idle = [Candidate(first, measure(first), limit)], {first}, 0
    with progress.task("local search", spend.left(), "probes") as advance:
        while idle < _PATIENCE and spend.left() > 0:
            near = _neighbours(problem, damages, incumbents[-1].choice, random)
            choice = next((one for one in near if one not in seen), None)
            if choice is None:
                break
            seen.add(choice)
            spend.done += 1
            candidate = Candidate(choice, measure(choice), limit)
            idle += 1
            if candidate.better(incumbents[-1]):
                incumbents.append(candidate)
                idle = 0
            advance(1)
    return incumbents


def _neighbours(
    problem: Problem, base: list[Divergences], incumbent: Choice, random: np.random.Generator
) -> Iterator[Choice]:
    """Solutions for scales drawn from around their estimates, near the incumbent."""
    for _ in range(_TRIES):
        factors = np.exp(random.choice(_STEPS) * random.normal(size=len(base)))
        inertia = random.uniform(0, _INERTIA)
        drawn = []
        for index, damages, factor in zip(incumbent, base, factors, strict=True):
            charged = factor * damages + inertia * damages[index]
            charged[index] = factor * damages[index]
            drawn.append(charged)
        yield problem.solve(drawn)[0]
