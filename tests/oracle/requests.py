"""How llama-quantize is asked for what a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpress import gguf
from quantpress.formats import TYPES, tensor_type
from quantpress.gguf import GGUF
from quantpress.imatrix import Imatrix
from quantpress.plan import plan
from quantpress.recipes import RECIPES, VARIANTS
from tests.oracle import llama_quantize, models
from tests.oracle.llama_quantize import Job


def jobs(
    model: Path, folder: Path, recipes: Sequence[str], imatrix: Imatrix | None = None, threads: int = 2
) -> list[Job]:
    """A job a recipe, each writing `folder/<recipe>.gguf`."""
    with gguf.read(model) as source:
        values = models.values(imatrix, source) if imatrix else None
        saved = llama_quantize.save_imatrix(folder / "imatrix.npz", values) if values else None
        return [
            Job(
                str(model), str(folder / f"{name}.gguf"), RECIPES[name].file_type, saved, threads=threads,
                **_options(source, name),
            )
            for name in recipes
        ]  # fmt: skip


def _options(source: GGUF, recipe: str) -> dict[str, Any]:
    if recipe in VARIANTS:
        return {"embedding": TYPES["Q8_0"].id, "output": TYPES["Q8_0"].id}
    if recipe != "MP":
        return {}
    lines = [line.split("=") for line in plan(source, type=recipe).to_tensor_types().split()]
    return {"types": [(pattern, tensor_type(type).id) for pattern, type in lines]}
