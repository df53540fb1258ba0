"""MP: embedding and output protected, attention in four bits, FFN tensors ranked by mean |w|.

The method of the model card gemma-4-31b-it-heretic-ara.i1-MP-3.98BPW: the FFN tensors (each by itself; the stacked
experts of a layer are one) are ordered by the mean of |w|, the first `fraction` of them, by number, gets `top` and the
others `rest`. What the card does not name (projections of latent attention, state-space layers, …) is treated as
attention; norms, biases and routers stay float as in every recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from quantpress.errors import PlanError
from quantpress.formats import tensor_type
from quantpress.recipes.conditions import RankedTop
from quantpress.recipes.mixes import ALIASES, ENDS, MIXES
from quantpress.recipes.rules import FFN, Recipe, use

__all__ = ["MixedPrecision", "file_type_of"]


def file_type_of(type: str) -> int:
    """llama.cpp's file type for a file whose weights are mostly of that tensor type; raises PlanError."""
    name = tensor_type(type).name
    mix = MIXES.get(ALIASES.get(name, name)) or next((mix for mix in MIXES.values() if mix.base == name), None)
    if mix is None:
        raise PlanError(None, "type of most weights", expected="a type that llama.cpp has a mix of", found=type)
    return mix.file_type


@dataclass(frozen=True)
class MixedPrecision:
    """The parameters of MP; `fraction` from 0 to 1, the others names of tensor types. Raises PlanError."""

    fraction: float = 0.15
    top: str = "IQ4_NL"
    attention: str = "IQ4_NL"
    output: str = "Q5_K"
    rest: str = "IQ3_S"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise PlanError(None, "MP: fraction", expected="a number from 0 to 1", found=self.fraction)
        for field in fields(self)[1:]:
            type = tensor_type(getattr(self, field.name))
            if not type.encodable:
                raise PlanError(None, f"MP: {field.name}", expected="a type that can be encoded", found=type.name)
            object.__setattr__(self, field.name, type.name)

    @classmethod
    def parse(cls, settings: Mapping[str, str]) -> MixedPrecision:
        """From `{"fraction": "0.2", "top": "Q4_K"}`; raises PlanError."""
        known = [field.name for field in fields(cls)]
        for key in settings.keys() - known:
            raise PlanError(None, "setting of MP", expected=f"one of {', '.join(known)}", found=key)
        try:
            fraction = float(settings.get("fraction", cls.fraction))
        except ValueError:
            raise PlanError(None, "MP: fraction", expected="a number from 0 to 1", found=settings["fraction"]) from None
        return cls(fraction, **{key: value for key, value in settings.items() if key != "fraction"})

    @property
    def recipe(self) -> Recipe:
        """The recipe with these parameters, those that are not the default in its name: `MP:fraction=0.2,top=Q4_K`."""
        changed = [f"{key}={value}" for key, value in asdict(self).items() if value != getattr(MixedPrecision, key)]
        rules = (
            use(self.output, ENDS),
            use(self.rest, FFN),
            use(self.top, FFN, RankedTop(self.fraction)),
        )
        description = (
            f"FFN in {self.rest}, its {100 * self.fraction:g} % of largest mean |w| in {self.top}, attention in "
            f"{self.attention}, embedding and output in {self.output}"
        )
        name = f"MP:{','.join(changed)}" if changed else "MP"
        return Recipe(name, file_type_of(self.rest), self.attention, rules, description, ranked=True)
