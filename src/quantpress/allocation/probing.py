"""What an error costs, learnt from probes: the slopes from which damage.py estimates the scales.

In the context of a whole quantized model, each group in turn gets its best quantized type, and the divergence falls: by
the group's share of it. These falls add up to the divergence within a few percent, which falls measured in an otherwise
float model do not: there, the noise that any first change brings is most of what is seen.

The context is a model of few bits, whatever the size that is planned. Slopes are the same there within their errors,
but the falls are far larger than the noise: planned from a context at 3.3 bits, files of 4 to 6 bits were better than
planned from contexts of their own size. So one sensitivity.json serves all sizes. A second round is in the context of
the knapsack's solution after the first.

Of a model with more groups than there are probes to spend, neighbours of a role are probed together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quantpress.allocation.damage import scales
from quantpress.allocation.problem import Choice, Divergences, Problem
from quantpress.allocation.target import Spend
from quantpress.evaluate import standard_error
from quantpress.progress import SILENT, Progress
from quantpress.sensitivity import Observation, Observed

__all__ = ["probe"]

Measure = Callable[[Choice], Divergences]

_BITS = 3.3  # a weight, of the context
_ROUNDS = 2
_SHARE = 0.75  # of the allowance, at most


def probe(
    problem: Problem,
    measure: Measure,
    spend: Spend,
    observed: Observed,
    *,
    save: Callable[[], None] = lambda: None,
    progress: Progress = SILENT,
) -> None:
    """Add observations of every group to `observed`, `save` after each, within most of what may be spent.

    What was observed before is not observed again. `measure` gives the divergence of each position, in nats.
    """
    open_ = [name for name, group in zip(problem.names, problem.groups, strict=True) if len(group.types) > 1]
    known = min((len(observed.get(name, ())) for name in open_), default=_ROUNDS)
    roles = len(set(problem.roles.values()))
    for done in range(known, _ROUNDS):
        if spend.left(_SHARE) > roles:  # or there would be no probe for each
            _round(problem, measure, spend, observed, done, save, progress)


def _round(
    problem: Problem,
    measure: Measure,
    spend: Spend,
    observed: Observed,
    done: int,
    save: Callable[[], None],
    progress: Progress,
) -> None:
    """Probe what was not probed more than `done` times, in the context that the scales known so far suggest."""
    small = replace(problem, budget=_context_bytes(problem))
    context = small.solve(small.damages(scales(problem.roles, observed)))[0]
    reference = measure(context)
    spend.done += 1
    rounds = _ROUNDS - done if spend.left(_SHARE) >= 2 * len(problem.groups) else 1
    clusters = _clusters(problem, observed, done, spend.left(_SHARE) // rounds)
    with progress.task("sensitivity", len(clusters), "probes") as advance:
        for members in clusters:
            best = _best(problem, context, members)
            fall = sum(float(problem.errors[at][context[at]] - problem.errors[at][best[at]]) for at in members)
            if not fall:  # tensors of zeros, which all types hold exactly
                continue
            drop = reference - measure(best)
            spend.done += 1
            one = Observation(float(drop.mean()) / fall, standard_error(drop) / abs(fall))
            for at in members:
                observed.setdefault(problem.names[at], []).append(one)
            save()
            advance(1)


def _context_bytes(problem: Problem) -> int:
    """Where the smallest choice is near the context's size or above it, a bit a weight more than that."""
    smallest = sum(group.nbytes[0] for group in problem.groups)
    return max(int(_BITS * problem.weights / 8), smallest + problem.weights // 8)


def _best(problem: Problem, context: Choice, members: list[int]) -> Choice:
    """The context with these groups nearly lossless: the last type is the source's own, the one before it the best.

    A group that is nearly lossless already changes to the other of the two, so that every probe changes an error.
    """
    changed = list(context)
    for at in members:
        best = max(len(problem.groups[at].types) - 2, 0)
        changed[at] = best if context[at] != best else len(problem.groups[at].types) - 1
    return tuple(changed)


def _clusters(problem: Problem, observed: Observed, done: int, limit: int) -> list[list[int]]:
    """Groups to probe together that were not probed `done` + 1 times: neighbours of a role, at most `limit` clusters.

    Fewer probes than roles tell nothing of any one of them: none then. Groups with one type are left out.
    """
    roles: dict[object, list[int]] = {}
    for at, (name, role) in enumerate(problem.roles.items()):
        if len(observed.get(name, ())) <= done and len(problem.groups[at].types) > 1:
            roles.setdefault(role, []).append(at)
    if limit < len(roles):
        return []
    share = 1
    while sum(-(-len(members) // share) for members in roles.values()) > limit:
        share += 1
    return [members[at : at + share] for members in roles.values() for at in range(0, len(members), share)]
