"""What an importance matrix is worth: statistics of each entry, and what it does not cover of a model.

The statistics are those of `llama-imatrix --show-statistics`, over the mean squared inputs a = sum / count of an
entry's columns (matrices that saw no token left out): their sum, least, greatest, mean and standard deviation;
`active`, the share above 1e-5; `entropy` of a / Σa in bits, also as a share of its maximum log2(n); `zd`, the share
more than one standard deviation above the mean; `cossim`, the cosine of the sums with those of the same tensor a layer
before.

The mean square of a column over n tokens is uncertain by about √(2/n) of itself: 6 % at the default threshold of 512.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpress import gguf
from quantpress.errors import ImatrixError
from quantpress.imatrix.file import Imatrix, layers, read
from quantpress.recipes.rules import Role
from quantpress.recipes.sites import quantizable, role_of

__all__ = ["Audit", "Sparse", "Statistics", "audit", "check_model", "covered", "layers_run", "show", "statistics"]

_ACTIVE = 1e-5
_LAYER = re.compile(r"blk\.(\d+)\.")
_OUTSIDE = ("output.weight", "token_embd.weight")
_OTHER_MODEL = "It was made from another model: make one with `quantpress imatrix`"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one entry; squared activations, `active`, `entropy_share` and `zd` as fractions, `entropy` in bits."""

    name: str
    tokens: int  # the most that any of its matrices saw
    columns: int
    sum: float
    min: float
    max: float
    mean: float
    std: float
    active: float
    entropy: float
    entropy_share: float
    zd: float
    cossim: float | None  # None: no such tensor a layer before


@dataclass(frozen=True, slots=True)
class Sparse:
    """A matrix of a weight (an expert, or the only one) that saw few tokens."""

    name: str
    matrix: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Audit:
    """Tokens that each matrix saw and statistics, by name; matrices that saw too few; the model's bare weights."""

    datasets: tuple[str, ...]
    tokens: Mapping[str, tuple[int, ...]]
    statistics: Mapping[str, Statistics]
    sparse: tuple[Sparse, ...]
    min_tokens: int
    missing: tuple[str, ...] | None  # the weights that have no entry; None: no model was given


def show(path: str | Path, *, model: str | Path | None = None, min_tokens: int = 512) -> Audit:
    """Read and audit an importance matrix, against a model if one is given; raises ImatrixError, GGUFError."""
    imatrix = read(path)
    if model is None:
        return audit(imatrix, min_tokens=min_tokens)
    with gguf.read(model) as file:
        check_model(imatrix, file)
        return audit(imatrix, file, min_tokens=min_tokens)


def audit(imatrix: Imatrix, model: gguf.GGUF | None = None, *, min_tokens: int = 512) -> Audit:
    """Statistics and coverage; `min_tokens` is what a matrix should have seen.

    `missing` are the model's weights that a quantization may encode and that have no entry, the output among them,
    which llama-imatrix leaves out. An embedding that is not the output does without: nothing is multiplied by it.
    """
    missing = None
    if model is not None:
        found = covered(imatrix, model)
        missing = tuple(name for name in (*_wanted(model), *_output(model)) if name not in found)
    tokens = {name: tuple(imatrix.tokens(name).tolist()) for name in imatrix.names}
    return Audit(imatrix.datasets, tokens, statistics(imatrix), _sparse(tokens, min_tokens), min_tokens, missing)


def _sparse(tokens: Mapping[str, tuple[int, ...]], min_tokens: int) -> tuple[Sparse, ...]:
    return tuple(
        Sparse(name, matrix, seen)
        for name, matrices in tokens.items()
        for matrix, seen in enumerate(matrices)
        if seen < min_tokens
    )


def _wanted(model: gguf.GGUF) -> list[str]:
    architecture = str(model.get("general.architecture"))
    return [
        name
        for name, tensor in model.tensors.items()
        if quantizable(name, tensor.shape, architecture) and role_of(name) not in (Role.EMBEDDING, Role.OUTPUT)
    ]


def _output(model: gguf.GGUF) -> tuple[str, ...]:
    """The weight that the logits come from: a tied one is the embedding; none in a model that embeds texts."""
    causal = model.get(f"{model.get('general.architecture')}.attention.causal", True)
    output, embedding = _OUTSIDE
    name = output if output in model.tensors else embedding
    return (name,) if causal and name in model.tensors else ()


def statistics(imatrix: Imatrix) -> dict[str, Statistics]:
    """Of every entry that saw a token, by name."""
    found = {}
    for name in imatrix.names:
        seen = imatrix.counts[name] > 0
        values = imatrix.importance(name)[seen].astype(np.float64).reshape(-1)
        if values.size:
            found[name] = _statistics(imatrix, name, values)
    return found


def _statistics(imatrix: Imatrix, name: str, values: NDArray[np.float64]) -> Statistics:
    total, mean, std = float(values.sum()), float(values.mean()), float(values.std())
    shares = values[values > 0] / total if total > 0 else np.ones(1)
    entropy = float(-(shares * np.log2(shares)).sum())
    return Statistics(
        name=name,
        tokens=int(imatrix.tokens(name).max()),
        columns=values.size,
        sum=total,
        min=float(values.min()),
        max=float(values.max()),
        mean=mean,
        std=std,
        active=float((values > _ACTIVE).mean()),
        entropy=entropy,
        entropy_share=entropy / float(np.log2(values.size)) if values.size > 1 else 1.0,
        zd=float((values > mean + std).mean()) if std > 0 else 0.0,
        cossim=_cossim(imatrix, name),
    )


def _cossim(imatrix: Imatrix, name: str) -> float | None:
    layer = _LAYER.search(name)
    if layer is None:
        return None
    before = imatrix.sums.get(f"{name[: layer.start(1)]}{int(layer[1]) - 1}{name[layer.end(1) :]}")
    if before is None or before.size != imatrix.sums[name].size:
        return None
    a, b = (values.astype(np.float64).reshape(-1) for values in (imatrix.sums[name], before))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else None


def covered(imatrix: Imatrix, model: gguf.GGUF) -> frozenset[str]:
    """The model's tensors that there is importance for: those with an entry of their size."""
    return frozenset(name for name, tensor in model.tensors.items() if imatrix.covers(tensor))


def check_model(imatrix: Imatrix, model: gguf.GGUF) -> None:
    """Raise ImatrixError unless the entries can be of this model.

    Every entry is of a weight of the model and has its size (an embedding's may differ and is of no use then, as in
    llama-quantize), and every layer that llama.cpp runs has entries. A single weight may lack one: no token went that
    way.
    """
    known = {*model.tensors, *_OUTSIDE}
    for name in imatrix.names:
        if name in model.tensors:
            _check_size(imatrix, name, model)
        elif name.partition(" (")[0] not in known:  # llama.cpp calls views of a weight "… (reshaped)"
            expected = f"a weight of {model.path}, such as {next(iter(_wanted(model)), 'none')}"
            raise ImatrixError(imatrix.path, name, expected=expected, found="none of that name", hint=_OTHER_MODEL)
    run = layers_run(model)
    if bare := run - layers(imatrix.names):
        expected, found = f"entries for the {len(run)} layers of {model.path}", f"none for {len(bare)} of them"
        raise ImatrixError(imatrix.path, f"blk.{min(bare)}", expected=expected, found=found, hint=_OTHER_MODEL)


def _check_size(imatrix: Imatrix, name: str, model: gguf.GGUF) -> None:
    tensor = model.tensors[name]
    found_values, expected_values = imatrix.sums[name].size, tensor.cols * tensor.matrices
    if found_values != expected_values and not name.startswith("token_embd"):
        expected = f"{expected_values:,} values ({tensor.matrices} × {tensor.cols}, as in {model.path})"
        raise ImatrixError(imatrix.path, name, expected=expected, found=f"{found_values:,}", hint=_OTHER_MODEL)


def layers_run(model: gguf.GGUF) -> set[int]:
    """The layers with weights; llama.cpp does not run those at the end that predict tokens beyond the next."""
    architecture = model.get("general.architecture")
    blocks, ahead = (model.get(f"{architecture}.{key}") for key in ("block_count", "nextn_predict_layers"))
    found = layers(_wanted(model))
    if isinstance(blocks, int) and isinstance(ahead, int):
        found = {layer for layer in found if layer < blocks - ahead}
    return found
