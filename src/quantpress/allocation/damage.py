"""From errors to divergence: what a type costs a tensor, in nats.

A layer whose output is off by the relative squared error e adds about s e to the mean KL divergence: errors of
different layers are independent of each other, the divergence is quadratic in small ones. So for each group

    damage(type) = scale × (error(type) + rounding(type))

`rounding` is what llama.cpp's CPU back end adds by rounding the layer's input to 8 bits, in blocks of 256 for types in
blocks of 256, in blocks of 32 for the others: nothing at three bits, a third of the damage of Q6_K.

The scales are what decides, and errors say nothing of them. A probe tells one (probing.py): the fall of the divergence
when one group of a whole quantized model gets a far better type, divided by the fall of its error.

Tensors of a role have scales of the same size, in all layers and in the models tried. So a scale is estimated as in any
hierarchical model: the role's mean from its probes and from a number known beforehand, each tensor's from its own
probes and the role's mean, all weighted by the inverse of their variances.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from quantpress.formats import TensorType
from quantpress.recipes import Role
from quantpress.sensitivity import Observation

__all__ = ["Scale", "rounding", "scales"]

# Nats a unit of relative error, measured by probes on the bundled model; only their ratios matter, and any
# probe overrules them.
_KNOWN_BEFORE = MappingProxyType(
    {
        Role.EMBEDDING: 0.1,
        Role.OUTPUT: 1.2,
        Role.QUERY: 0.008,
        Role.KEY: 0.011,
        Role.VALUE: 0.02,
        Role.ATTENTION_OUTPUT: 0.018,
        Role.GATE: 0.04,
        Role.UP: 0.022,
        Role.DOWN: 0.05,
    }
)
_OTHER = 0.02
_OF_ROLES, _OF_TENSORS, _OF_PROBES = (
    0.7,
    0.6,
    0.25,
)  # relative deviations: of what is known before, in a role, of one context
_LEAST = 0.1  # of the role's mean: a scale of 0 would invite any error
_ROUNDING = {True: 1.8e-4, False: 4e-5}  # by whether the type's blocks are of 256 weights


@dataclass(frozen=True)
class Scale:
    """Nats a unit of relative error of a group, one sigma."""

    value: float
    uncertainty: float


def rounding(type: TensorType) -> float:
    """The relative squared error of the inputs that llama.cpp rounds for a product with weights of that type."""
    return _ROUNDING[type.block == 256] if type.quantized else 0.0


def scales(roles: Mapping[str, Role], observed: Mapping[str, Sequence[Observation]]) -> dict[str, Scale]:
    """The scale of each group (a name, with its role), from the probes of any of them."""
    members = defaultdict(list)
    for name, role in roles.items():
        members[role].append(name)
    found = {}
    for role, names in members.items():
        before = _KNOWN_BEFORE.get(role, _OTHER)
        mean = _role_mean(before, [one for name in names for one in observed.get(name, ())])
        found.update({name: _scale(mean, observed.get(name, ())) for name in names})
    return {name: found[name] for name in roles}


def _role_mean(before: float, observed: Sequence[Observation]) -> float:
    """Two steps, because the spread of tensors in a role is relative to the mean that is sought."""
    mean = before
    for _ in range(2):
        spread = (_OF_TENSORS * mean) ** 2
        pairs = [(one.slope, one.error**2 + spread) for one in observed]
        known = (before, (_OF_ROLES * max(before, mean)) ** 2)
        mean = max(_weighted([known, *pairs])[0], _LEAST * before)
    return mean


def _scale(mean: float, observed: Sequence[Observation]) -> Scale:
    pairs = [(one.slope, one.error**2 + (_OF_PROBES * mean) ** 2) for one in observed]
    value, uncertainty = _weighted([(mean, (_OF_TENSORS * mean) ** 2), *pairs])
    return Scale(max(value, _LEAST * mean), uncertainty)


def _weighted(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of (value, variance) by inverse variance, and its standard error."""
    weight = sum(1 / variance for _, variance in pairs)
    return sum(value / variance for value, variance in pairs) / weight, math.sqrt(1 / weight)
