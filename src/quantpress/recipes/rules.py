"""What a recipe is: a base type and rules, read from top to bottom, where a later rule overrides an earlier one.

llama.cpp writes its mixes as nested conditions over (role of the tensor, file type, model); here they are turned round:
one list a mix, each line `use(type, roles, conditions)`. So a mix can be read, derived from another with
`dataclasses.replace`, and compared; `choose` is all the code that interprets it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from quantpress.errors import PlanError

__all__ = ["ATTENTION", "FFN", "ModelFacts", "Recipe", "Role", "Rule", "Site", "choose", "use"]


class Role(Enum):
    """What a matrix does in the model; embeddings that are the output as well (tied) have the role OUTPUT."""

    OUTPUT = "output"
    EMBEDDING = "embedding"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"  # and the fused tensors that contain it: attn_qkv, attn_kv_b
    ATTENTION_OUTPUT = "attention output"
    UP = "up"
    GATE = "gate"
    DOWN = "down"
    OTHER = "other"


ATTENTION = frozenset({Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUTPUT})
FFN = frozenset({Role.UP, Role.GATE, Role.DOWN})


@dataclass(frozen=True)
class ModelFacts:
    """What the rules ask about a model."""

    architecture: str
    layers: int  # block_count, with the layers that predict further tokens
    heads_per_kv: int  # of the first layer; 0 where it has no attention
    experts: int
    seventy: bool  # llama.cpp calls it a 70B model
    values: int  # tensors of the role VALUE
    ranked: int = 0  # FFN tensors that take part in the ranking
    imatrix: bool = False


@dataclass(frozen=True)
class Site:
    """A matrix for which a type is to be chosen."""

    model: ModelFacts
    name: str
    shape: tuple[int, ...]
    role: Role
    index: int  # how many matrices of the same role come before it in llama.cpp's order
    rank: int = 0  # its place among the FFN tensors by mean |w|, 0 the largest

    @property
    def depth(self) -> tuple[int, int]:
        """(position, positions): the layer for FFN tensors of a mixture of experts, else counted within the role."""
        if self.role is Role.VALUE:
            return self.index, self.model.values
        if self.model.experts <= 1:
            return self.index, self.model.layers
        found = re.match(r"blk\.(\d+)\.", self.name)
        layers = self.model.layers
        if found is None or int(found[1]) >= layers:
            raise PlanError(None, f"tensor {self.name}", expected=f"a name that starts with blk.0. … blk.{layers - 1}.")
        return int(found[1]), layers


Condition = Callable[[Site], bool]


@dataclass(frozen=True)
class Rule:
    """Tensors of these roles, where all conditions hold, get the type; with `over` only in place of those types."""

    type: str
    roles: frozenset[Role]
    when: tuple[Condition, ...] = ()
    over: frozenset[str] | None = None

    def applies(self, site: Site, chosen: str) -> bool:
        """Whether the rule replaces the type `chosen` at this site."""
        return (
            site.role in self.roles
            and (self.over is None or chosen in self.over)
            and all(condition(site) for condition in self.when)
        )


def use(type: str, roles: Role | frozenset[Role], *when: Condition, over: frozenset[str] | None = None) -> Rule:
    """A rule in one line."""
    return Rule(type, roles if isinstance(roles, frozenset) else frozenset({roles}), when, over)


@dataclass(frozen=True)
class Recipe:
    """A named assignment of types: `base`, then the rules. `file_type` is the number of llama.cpp's nearest mix."""

    name: str
    file_type: int
    base: str
    rules: tuple[Rule, ...] = ()
    description: str = ""
    ranked: bool = False  # its rules ask for the rank by mean |w|


def choose(recipe: Recipe, site: Site) -> str:
    """The name of the type that a recipe wants at a site; whether a row's length allows it is not considered."""
    chosen = recipe.base
    for rule in recipe.rules:
        if rule.applies(site, chosen):
            chosen = rule.type
    return chosen
