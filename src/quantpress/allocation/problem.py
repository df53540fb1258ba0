"""The choice to be made, as numbers: groups of tensors, their types' bytes and errors, and the bytes there are.

Pure: what a choice costs in fact is measured elsewhere, and its damage comes in as scales (damage.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantpress.allocation.candidates import Group
from quantpress.allocation.damage import Scale, rounding
from quantpress.allocation.knapsack import solve
from quantpress.errors import PlanError
from quantpress.formats import TensorType
from quantpress.gguf import GGUF, Tensor
from quantpress.recipes import Role
from quantpress.recipes.sites import role_of
from quantpress.sensitivity import Error

__all__ = ["Choice", "Divergences", "Problem", "problem_of"]

Choice = tuple[int, ...]  # the index of each group's type
Numbers = NDArray[np.float64]
Divergences = NDArray[np.float64]  # of each scored position, nats


@dataclass(frozen=True)
class Problem:
    """`errors`: of each group's types in their order, rounding of activations included."""

    groups: tuple[Group, ...]
    roles: dict[str, Role]  # of each group, by its name
    errors: tuple[Numbers, ...]
    weights: int
    budget: int  # bytes of all groups together, padded

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each group: its tensors', joined."""
        return tuple(self.roles)

    def damages(self, scales: Mapping[str, Scale]) -> list[Numbers]:
        """Nats for each type of each group."""
        return [scales[name].value * errors for name, errors in zip(self.names, self.errors, strict=True)]

    def solve(self, damages: Sequence[Numbers]) -> tuple[Choice, float]:
        """The least damage that fits, and the relative gap to a better choice that was not ruled out."""
        found = solve([np.array(group.nbytes, np.int64) for group in self.groups], damages, self.budget)
        return found.choice, found.gap

    def damage(self, choice: Choice, damages: Sequence[Numbers]) -> float:
        """The sum of a choice's damages, in nats."""
        return math.fsum(one[index] for one, index in zip(damages, choice, strict=True))

    def types(self, choice: Choice) -> dict[str, str]:
        """Tensor to name of its type, of all tensors in groups."""
        return {
            name: group.types[index].name
            for group, index in zip(self.groups, choice, strict=True)
            for name in group.names
        }


def problem_of(model: GGUF, groups: Sequence[Group], errors: Mapping[str, Mapping[str, Error]], budget: int) -> Problem:
    """The problem of a model's groups with the errors of their tensors (`sensitivity.add_errors`).

    A group's error is its tensors' mean by weights. Raises PlanError where nothing is to be chosen.
    """
    if not groups:
        raise PlanError(model.path, "tensors", expected="matrices to choose types for", found="none")
    tied = "output.weight" not in model.tensors
    found = []
    for group in groups:
        shares = np.array([model.tensors[name].weights for name in group.names], np.float64)
        table = [[_error(errors, model.tensors[name], type) for type in group.types] for name in group.names]
        roundings = np.array([rounding(type) for type in group.types])
        found.append(shares @ np.array(table) / shares.sum() + roundings)
    roles = {"+".join(group.names): role_of(group.names[0], tied=tied) for group in groups}
    weights = sum(model.tensors[name].weights for group in groups for name in group.names)
    return Problem(tuple(groups), roles, tuple(found), weights, budget)


def _error(errors: Mapping[str, Mapping[str, Error]], tensor: Tensor, type: TensorType) -> float:
    """0 for the type that the tensor has in the source."""
    return 0.0 if type is tensor.type else errors[tensor.name][type.name].value
