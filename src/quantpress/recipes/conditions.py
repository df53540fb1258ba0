"""The conditions under which the rules of a mix hold: predicates of a tensor and its model.

Those with a parameter are frozen values, so that recipes can be compared and pickled.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.recipes.rules import Site


def falcon(site: Site) -> bool:
    """Falcon has one fused attention tensor a layer and mixes of its own."""
    return site.model.architecture == "falcon"


def not_falcon(site: Site) -> bool:
    """Any other architecture."""
    return not falcon(site)


def with_imatrix(site: Site) -> bool:
    """An importance matrix is at hand."""
    return site.model.imatrix


def without_imatrix(site: Site) -> bool:
    """No importance matrix is at hand."""
    return not site.model.imatrix


def shared_values(site: Site) -> bool:
    """Four query heads or more share a value head: its tensor is small and worth more bits."""
    return site.model.heads_per_kv >= 4


def four_experts(site: Site) -> bool:
    """A mixture of four experts or more."""
    return site.model.experts >= 4


def eight_experts(site: Site) -> bool:
    """A mixture of exactly eight experts, as Mixtral's: attention is a small part of it."""
    return site.model.experts == 8


def not_eight_experts(site: Site) -> bool:
    """A dense model, or a mixture of another number of experts."""
    return not eight_experts(site)


def seventy(site: Site) -> bool:
    """What llama.cpp calls a 70B model: its values are an eighth of its queries."""
    return site.model.seventy


def stacked(site: Site) -> bool:
    """Several matrices in one tensor: the experts of a layer."""
    return len(site.shape) > 2 and site.shape[2] > 1


def first_eighth(site: Site) -> bool:
    """In the first eighth of the layers."""
    position, positions = site.depth
    return position < positions // 8


def first_eighth_counted(site: Site) -> bool:
    """As `first_eighth`, by count even where a layer has several such tensors."""
    return site.index < site.model.layers // 8


def first_sixteenth(site: Site) -> bool:
    """In the first sixteenth of the layers."""
    position, positions = site.depth
    return position < positions // 16


def first_two(site: Site) -> bool:
    """One of the first two of its role."""
    return site.index < 2


def first_four(site: Site) -> bool:
    """One of the first four of its role."""
    return site.index < 4


def middle(site: Site) -> bool:
    """Neither in the first nor in the last eighth."""
    position, positions = site.depth
    return positions // 8 <= position < 7 * positions // 8


def spread(site: Site) -> bool:
    """In the first eighth, in the last, or every third in between."""
    position, positions = site.depth
    return not middle(site) or (position - positions // 8) % 3 == 2


@dataclass(frozen=True)
class Uneven:
    """Rows that are no multiple of `block` weights."""

    block: int

    def __call__(self, site: Site) -> bool:
        """Whether it holds."""
        return site.shape[0] % self.block != 0


def not_bailing_moe(site: Site) -> bool:
    """Any architecture but Bailing's, whose stacked tensors are not all experts: some are projections of attention."""
    return site.model.architecture != "bailingmoe3"


def glm5_projection(site: Site) -> bool:
    """Projections that GLM-5 does not bear below eight bits."""
    names = ("attn_q_a", "attn_q_b", "nextn.eh_proj")
    return site.model.architecture == "glm5-next" and any(name in site.name for name in names)


@dataclass(frozen=True)
class RankedTop:
    """Among the `fraction` (0 to 1, of the number of tensors, rounded) of FFN tensors with the largest mean |w|."""

    fraction: float

    def __call__(self, site: Site) -> bool:
        """Whether it holds."""
        return site.rank < round(self.fraction * site.model.ranked)
