"""Named recipes: every mix of `llama-quantize`, the `_L` variants, MP. See `rules` for what a recipe is."""

from __future__ import annotations

from types import MappingProxyType

from quantpress.errors import PlanError
from quantpress.recipes.mixed_precision import MixedPrecision, file_type_of
from quantpress.recipes.mixes import ALIASES, ENLARGED, MIXES, VARIANTS
from quantpress.recipes.rules import ATTENTION, FFN, ModelFacts, Recipe, Role, Rule, Site, choose, use
from quantpress.recipes.sites import model_facts, quantizable, sites

__all__ = [
    "ALIASES",
    "ATTENTION",
    "ENLARGED",
    "FFN",
    "MIXES",
    "RECIPES",
    "VARIANTS",
    "MixedPrecision",
    "ModelFacts",
    "Recipe",
    "Role",
    "Rule",
    "Site",
    "choose",
    "file_type_of",
    "is_stock",
    "model_facts",
    "quantizable",
    "recipe",
    "sites",
    "use",
]

RECIPES = MappingProxyType({**MIXES, **VARIANTS, "MP": MixedPrecision().recipe})


def is_stock(name: str) -> bool:
    """Whether a variant's name alone says what it is: a mix of `llama-quantize`, or one with larger ends."""
    return name in MIXES or name in VARIANTS


def recipe(name: str) -> Recipe:
    """The recipe of that name, in any case; `MP` may be followed by settings: `MP:fraction=0.2,top=Q4_K,rest=IQ3_XXS`.

    Raises PlanError that lists the known names.
    """
    head, colon, settings = name.strip().partition(":")
    if head.upper() == "MP":
        pairs = [pair.partition("=")[::2] for pair in settings.split(",")] if colon else []
        return MixedPrecision.parse({key.strip().lower(): value.strip() for key, value in pairs}).recipe
    head = ALIASES.get(name.strip().upper(), name.strip().upper())
    if head not in RECIPES:
        known = ", ".join((*RECIPES, *(f"{alias} (= {of})" for alias, of in ALIASES.items())))
        raise PlanError(None, "recipe", expected=f"one of {known}", found=name)
    return RECIPES[head]
