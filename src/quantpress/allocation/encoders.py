"""Which tensors of a plan are better encoded plainly, by measured divergence.

Compensation lowers the error of each layer's output, on inputs like those of its text; whether that lowers the
divergence is another matter, and what holds for one kind of tensor holds for all of it. So each role (attn_q, ffn_down,
…) is encoded plainly in turn, everything else as planned, and stays so if the divergence falls beyond its error bar.
"""

from __future__ import annotations

import math

from quantpress.allocation.measure import Meter, Passage
from quantpress.allocation.problem import Problem
from quantpress.allocation.search import Candidate

__all__ = ["plain_roles"]

_ERRORS = 2  # standard errors by which plain encoding must be better


def plain_roles(problem: Problem, best: Candidate, instrument: Meter, passage: Passage) -> tuple[str, ...]:
    """The tensors that a plan's best candidate should encode plainly; a measurement a role."""
    types = problem.types(best.choice)
    usual = instrument.scores(passage, types).kld
    found: list[str] = []
    for role in dict.fromkeys(problem.roles.values()):
        names = [
            name
            for group, key in zip(problem.groups, problem.names, strict=True)
            if problem.roles[key] == role
            for name in group.names
        ]
        off = instrument.scores(passage, types, names).kld - usual
        if off.mean() < -_ERRORS * off.std(ddof=1) / math.sqrt(len(off)):
            found += names
    return tuple(found)
