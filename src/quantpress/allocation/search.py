"""The loop: solve, measure, learn, measure again. What is kept was measured to be better than what it replaces.

1. The knapsack is solved with the scales known so far, and its choice measured: the incumbent.
2. In its context, each group is probed: how far the divergence falls when the group alone gets its best quantized type.
   Of a model with more groups than there are probes to spend, neighbours of a role are probed together. The scales
   are fitted again, the knapsack solved again; twice, because the second incumbent is nearer to the file in question.
3. What is left of the allowance goes to neighbours of the incumbent: solutions for scales drawn from around their
   estimates, which differ from it in a few groups. That is where a sum of damages ends: rounding errors of two layers
   may add up or cancel, and only a measurement of the whole tells.

A candidate replaces the incumbent if its divergence on the same positions is lower by more than one standard error of
the differences, and its 99th percentile not higher by more than a twentieth: a mean can hide rare, large errors.

`measure` gives the divergence of each position of the search text, in nats; nothing here knows where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quantpress.allocation.damage import Scale, scales
from quantpress.allocation.problem import Choice, Problem
from quantpress.allocation.target import Spend
from quantpress.progress import SILENT, Progress
from quantpress.sensitivity import Observation, Observed

__all__ = ["Candidate", "Divergences", "Found", "Measure", "search"]

Divergences = NDArray[np.float64]
Measure = Callable[[Choice], Divergences]

_ROUNDS = 2  # of probing in the incumbent's context
_SHARE = 0.6  # of the allowance, for both
_PATIENCE = 40  # proposals in a row that are no better
_TAIL = 1.05
_STEPS = (0.1, 0.2, 0.35)  # standard deviations of a proposal's scales, in logarithms
_INERTIA = 0.3  # of an incumbent's damage, charged for a change: proposals stay near
_TRIES = 20  # to find a proposal that was not measured yet


@dataclass(frozen=True, eq=False)
class Candidate:
    """A choice and the divergence of each position."""

    choice: Choice
    kld: Divergences

    @property
    def mean(self) -> float:
        """Mean KL divergence, nats."""
        return float(self.kld.mean())

    def better(self, other: Candidate) -> bool:
        """Whether it replaces another: see the module's head."""
        difference = self.kld - other.kld
        error = difference.std() / np.sqrt(max(len(difference) - 1, 1))
        tails = np.percentile(self.kld, 99), np.percentile(other.kld, 99)
        return bool(difference.mean() < -error and tails[0] <= _TAIL * tails[1])


@dataclass
class Found:
    """The best candidate, what was learnt on the way, and how the search went."""

    best: Candidate
    observed: Observed
    scales: dict[str, Scale]
    gap: float  # of the last knapsack: no sum of damages is lower by more than this share
    probes: int
    history: list[tuple[str, float]] = field(default_factory=list)  # what became the incumbent, and its divergence


def search(
    problem: Problem,
    measure: Measure,
    spend: Spend,
    observed: Observed,
    *,
    seed: int = 0,
    save: Callable[[Observed], None] = lambda _: None,
    progress: Progress = SILENT,
) -> Found:
    """The best measured choice within an allowance; `observed` is what earlier searches learnt, `save` keeps it.

    With nothing to spend it still measures one candidate: the knapsack's.
    """
    loop = _Loop(problem, measure, spend, {name: list(found) for name, found in observed.items()}, save, progress)
    loop.propose("knapsack")
    for _ in range(_ROUNDS):
        if not loop.probe(int(spend.left() * _SHARE / 2)):
            break
        loop.propose("refit")
    loop.climb(np.random.default_rng(seed))
    return loop.found()


class _Loop:
    def __init__(
        self,
        problem: Problem,
        measure: Measure,
        spend: Spend,
        observed: Observed,
        save: Callable[[Observed], None],
        progress: Progress,
    ) -> None:
        self.problem, self.spend, self.observed = problem, spend, observed
        self._measure, self._save, self._progress = measure, save, progress
        self.bits = problem.bits(problem.solve(problem.damages(scales(problem.roles, observed, 0.0)))[0])
        self.best: Candidate | None = None
        self.seen: set[Choice] = set()
        self.gap = 0.0
        self.history: list[tuple[str, float]] = []

    def measured(self, choice: Choice) -> Candidate:
        self.spend.done += 1
        return Candidate(choice, self._measure(choice))

    def scales(self) -> dict[str, Scale]:
        return scales(self.problem.roles, self.observed, self.bits)

    def found(self) -> Found:
        assert self.best is not None  # noqa: S101  (`propose` was called)
        return Found(self.best, self.observed, self.scales(), self.gap, self.spend.done, self.history)

    def propose(self, why: str) -> None:
        """Measure the knapsack's choice, unless it was measured before."""
        choice, self.gap = self.problem.solve(self.problem.damages(self.scales()))
        if choice not in self.seen:
            self._take(self.measured(choice), why)

    def probe(self, limit: int) -> bool:
        """Learn scales in the context of the incumbent with at most `limit` probes; whether there were any."""
        incumbent = self.best
        clusters = _clusters(self.problem, limit) if incumbent else []
        if incumbent is None or not clusters:
            return False
        with self._progress.task("sensitivity", len(clusters), "probes") as advance:
            for members in clusters:
                self._probe(incumbent, members)
                self._save(self.observed)
                advance(1)
        return True

    def _probe(self, incumbent: Candidate, members: list[int]) -> None:
        """The fall of the divergence when these groups are nearly lossless, by the fall of their errors."""
        errors, changed, fall = self.problem.errors, list(incumbent.choice), 0.0
        for group in members:
            changed[group] = len(errors[group]) - 1 - (len(errors[group]) > 1)  # the last is the source's own type
            fall += float(errors[group][incumbent.choice[group]] - errors[group][changed[group]])
        if fall <= 0:  # it has the best type already: there is nothing to learn
            return
        drop = incumbent.kld - self.measured(tuple(changed)).kld
        error = float(drop.std()) / np.sqrt(max(len(drop) - 1, 1))
        one = Observation(float(drop.mean()) / fall, float(error) / fall, self.bits)
        for group in members:
            self.observed.setdefault(self.problem.names[group], []).append(one)

    def climb(self, random: np.random.Generator) -> None:
        """Measure neighbours of the incumbent until the allowance or the patience ends."""
        left, idle = self.spend.left(), 0
        with self._progress.task("local search", left, "probes") as advance:
            while idle < _PATIENCE and self.spend.left() > 0:
                choice = next((one for one in self._neighbours(random) if one not in self.seen), None)
                if choice is None:
                    return
                idle = 0 if self._take(self.measured(choice), "local search") else idle + 1
                advance(1)

    def _take(self, candidate: Candidate, why: str) -> bool:
        """Make it the incumbent if it is better."""
        self.seen.add(candidate.choice)
        if self.best is not None and not candidate.better(self.best):
            return False
        self.best = candidate
        self.history.append((why, candidate.mean))
        return True

    def _neighbours(self, random: np.random.Generator) -> Iterator[Choice]:
        incumbent = self.best.choice if self.best else ()
        base = self.problem.damages(self.scales())
        for _ in range(_TRIES):
            factors = np.exp(random.choice(_STEPS) * random.normal(size=len(base)))
            inertia = random.uniform(0, _INERTIA)
            drawn = []
            for index, damages, factor in zip(incumbent, base, factors, strict=True):
                charged = factor * damages + inertia * damages[index]
                charged[index] = factor * damages[index]
                drawn.append(charged)
            yield self.problem.solve(drawn)[0]


def _clusters(problem: Problem, limit: int) -> list[list[int]]:
    """Groups to probe together, at most `limit` clusters: neighbours of a role, of about equal number.

    Fewer probes than roles tell nothing of any one of them: none then.
    """
    roles: dict[object, list[int]] = {}
    for group, role in enumerate(problem.roles.values()):
        roles.setdefault(role, []).append(group)
    if limit < len(roles):
        return []
    share = 1
    while sum(-(-len(members) // share) for members in roles.values()) > limit:
        share += 1
    return [members[at : at + share] for members in roles.values() for at in range(0, len(members), share)]
