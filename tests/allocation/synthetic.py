"""A model of damage whose truth is known: quadratic in the errors, with cross terms, and noise at every position."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np

from quantpress.allocation.candidates import Group
from quantpress.allocation.damage import scales
from quantpress.allocation.problem import Choice, Divergences, Problem
from quantpress.formats import TYPES
from quantpress.recipes import Role

KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16")
ROLES = {"attn_v": Role.VALUE, "ffn_up": Role.UP, "ffn_down": Role.DOWN, "output": Role.OUTPUT}
POSITIONS = 4000


def problem(layers: int, *, kinds: tuple[str, ...] = KINDS, share: float = 0.25, seed: int = 0) -> Problem:
    """Three groups a layer and the output, about 4^-bits of error each; the budget a share of what is possible."""
    draw = np.random.default_rng(seed)
    names = [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in ("attn_v", "ffn_up", "ffn_down")]
    names.append("output.weight")
    types = tuple(TYPES[kind] for kind in kinds)
    groups, errors, weights = [], [], 0
    for name in names:
        size = 256 * int(draw.integers(64, 512)) * (4 if name == "output.weight" else 1)
        groups.append(Group((name,), types, tuple(type.row_bytes(size) for type in types)))
        bits = np.array([type.bits_per_weight for type in types])
        errors.append(np.where(bits < 16, draw.uniform(0.7, 1.4, len(types)) * 4.0**-bits, 0))
        weights += size
    roles = {name: next(role for part, role in ROLES.items() if part in name) for name in names}
    low, high = (sum(group.nbytes[at] for group in groups) for at in (0, -1))
    return Problem(tuple(groups), roles, tuple(errors), weights, int(low + share * (high - low)))


def nbytes(problem: Problem, choice: Choice) -> int:
    """Bytes of the groups, padded."""
    return sum(group.nbytes[at] for group, at in zip(problem.groups, choice, strict=True))


@dataclass
class Truth:
    """Measures choices: true scales are the known ones times a factor, errors of two groups add up or cancel a bit."""

    problem: Problem
    seed: int = 1
    noise: float = 0.02  # of a position's divergence, in each measurement
    cross: float = 0.04
    calls: list[Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(self.seed)
        count = len(self.problem.groups)
        known = scales(self.problem.roles, {})
        self.scales = np.array([one.value for one in known.values()]) * np.exp(draw.normal(0, 0.7, count))
        half = np.triu(draw.normal(0, self.cross, (count, count)), 1)
        self.matrix = np.eye(count) + half + half.T
        self.positions = draw.exponential(size=POSITIONS)
        self.positions /= self.positions.mean()

    def damage(self, choice: Choice) -> float:
        """The true mean divergence."""
        errors = [one[at] for one, at in zip(self.problem.errors, choice, strict=True)]
        roots = np.sqrt(self.scales * np.array(errors))
        return float(roots @ self.matrix @ roots)

    def __call__(self, choice: Choice) -> Divergences:
        """The divergence of each position, the same for the same choice."""
        self.calls.append(choice)
        draw = np.random.default_rng(int(hashlib.sha256(repr((choice, self.seed)).encode()).hexdigest()[:12], 16))
        return self.damage(choice) * self.positions * draw.normal(1, self.noise, POSITIONS)


def optimum(truth: Truth) -> float:
    """The least true damage that fits, by trying every choice."""
    groups = truth.problem.groups
    every = np.array(list(itertools.product(*(range(len(group.types)) for group in groups))))
    nbytes = sum(np.array(group.nbytes)[every[:, at]] for at, group in enumerate(groups))
    fitting = every[nbytes <= truth.problem.budget]
    errors = np.stack([one[fitting[:, at]] for at, one in enumerate(truth.problem.errors)], axis=1)
    roots = np.sqrt(truth.scales * errors)
    return float(np.einsum("ni,ij,nj->n", roots, truth.matrix, roots).min())
