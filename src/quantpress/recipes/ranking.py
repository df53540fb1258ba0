"""The FFN tensors of a model by mean |w|, largest first: what MP asks for.

The sum is taken in float64 over tiles of whole rows, so memory is bounded by a tile; tile sums are added exactly. Equal
means are ordered by name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from quantpress.codec import decode
from quantpress.errors import GGUFError, PlanError
from quantpress.progress import SILENT, Progress
from quantpress.recipes.rules import FFN
from quantpress.recipes.sites import quantizable, role_of
from quantpress.tiles import RowReader, cuts

if TYPE_CHECKING:
    from quantpress.arrays import Bytes
    from quantpress.gguf import GGUF, Tensor

__all__ = ["ffn_names", "ffn_ranks", "mean_magnitude"]


def ffn_names(source: GGUF) -> list[str]:
    """The FFN tensors that a recipe gives a type to."""
    architecture = str(source.get("general.architecture"))
    return [
        name
        for name, tensor in source.tensors.items()
        if role_of(name) in FFN and quantizable(name, tensor.shape, architecture) and not tensor.type.trained
    ]


def ffn_ranks(source: GGUF, progress: Progress = SILENT) -> dict[str, int]:
    """FFN tensor to place by mean |w|, 0 the largest; reads those tensors' data. Raises as `mean_magnitude`."""
    names = ffn_names(source)
    means = {}
    with progress.task("ranking FFN tensors", total=len(names), unit="tensors") as advance:
        for name in names:
            means[name] = mean_magnitude(source, name)
            advance(1)
    return {name: rank for rank, name in enumerate(sorted(names, key=lambda name: (-means[name], name)))}


def mean_magnitude(source: GGUF, name: str) -> float:
    """Mean of |w| over a tensor of BF16, F16 or F32; PlanError for another type, GGUFError for NaN or infinity."""
    tensor = source.tensors[name]
    if tensor.type.name not in ("BF16", "F16", "F32"):
        raise PlanError(source.path, f"type of {name}", expected="BF16, F16 or F32", found=tensor.type.name)
    with RowReader(source) as reader:
        sums = [_magnitude_sum(reader.read(tensor, *rows), tensor) for rows in cuts(tensor)]
    mean = math.fsum(sums) / tensor.weights
    if not math.isfinite(mean):
        raise GGUFError(source.path, f"tensor {name}", expected="finite weights", found=mean)
    return mean


def _magnitude_sum(tile: Bytes, tensor: Tensor) -> float:
    return float(np.abs(decode(tile, tensor.type.name, tensor.cols, threads=1)).sum(dtype=np.float64))
