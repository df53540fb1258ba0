"""The seam of quantization: rows of a matrix in, the same rows in every wanted type out.

`encode_tile` is a pure, picklable function of a `Tile`. Whatever runs it stays outside: threads today, other processes
or machines later. A tile never crosses a matrix, because each expert of a mixture has its own importance, and rows are
encoded independently of each other, so the bytes do not depend on how a tensor is cut.

What an encoder keeps small: for each block, the squared error `sum_j importance[j] * (x[j] - decoded[j])**2`, where
`importance[j]` is the mean square of the activation that column j meets; without it, a function of the weights alone.

Why it looks for NaN and Inf before it encodes: ggml's encoders abort the process on some and write silently broken
blocks, with finite scales, for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantpress.engine import ggml
from quantpress.errors import InputError, PlanError
from quantpress.floats import Floats, bf16_to_float32
from quantpress.formats import TensorType

__all__ = ["ENCODERS", "Encoder", "Tile", "check_finite", "decode", "encode_tile", "encoder_named"]

Bytes = NDArray[np.uint8]

# Far above what any block type can hold (scales are float16), far below where the encoders' sums overflow float32.
LARGEST_WEIGHT = 1e10
LARGEST_IMPORTANCE = 1e15


class Encoder(Protocol):
    """What an encoder offers; a module with these functions is one."""

    def quantize(self, x: Floats, type: TensorType, importance: Floats | None) -> Bytes:
        """Encodes finite float32 [rows, cols] to uint8 [rows, bytes of a row]; importance: float32 [cols] or None."""

    def requires_importance(self, type: TensorType) -> bool:
        """Whether it cannot encode the type at all without importance."""


ENCODERS: Mapping[str, Encoder] = MappingProxyType({"ggml": ggml})


def encoder_named(name: str) -> Encoder:
    """The encoder of that name; raises PlanError that lists the known ones."""
    if name not in ENCODERS:
        raise PlanError(None, "encoder", expected=f"one of {', '.join(ENCODERS)}", found=name)
    return ENCODERS[name]


@dataclass(frozen=True, slots=True)
class Tile:
    """Consecutive rows of one matrix of a tensor, and what is wanted of them."""

    tensor: str
    row: int  # of the first, counted over all the tensor's matrices
    data: Bytes  # [rows, bytes of a row], as in the source file
    type: TensorType  # of `data`
    cols: int
    types: tuple[TensorType, ...]  # to encode to
    importance: Floats | None = None  # [cols]


def encode_tile(tile: Tile, encoder: str = "ggml") -> list[Bytes]:
    """Encodes a tile to each of its types: uint8 [rows, bytes of a row] each, in the order of `tile.types`.

    Its own type gives the bytes of the source.

    Raises:
        InputError: a weight or an importance is NaN, infinite or beyond what a type can hold; names tensor and row.
        PlanError: an unknown encoder, a type that cannot be encoded or decoded, rows of another length.
    """
    coder = encoder_named(encoder)
    others = [type for type in tile.types if type != tile.type]
    if tile.type.kind == "integer" and not others:
        return [tile.data for _ in tile.types]  # indices: nothing that could be NaN
    x = decode(tile.data, tile.type, tile.cols)
    check_finite(x, tile.tensor, tile.row)
    if any(type.quantized for type in others):
        _check_magnitudes(x, tile)
    encoded = {type: _checked(coder.quantize(x, type, tile.importance), type, tile) for type in others}
    return [encoded.get(type, tile.data) for type in tile.types]


def decode(data: Bytes, type: TensorType, cols: int) -> Floats:
    """Decodes rows of any type that holds weights: uint8 [rows, bytes of a row] to float32 [rows, cols], exactly.

    F32 is a view of `data`. Raises PlanError for a type without weights (an integer) or rows of another length.
    """
    to_float = _FLOATS.get(type.name)
    if to_float is None:
        return ggml.dequantize(data, type, cols)
    if data.shape[1:] != (type.row_bytes(cols),):
        raise PlanError(
            None, "decoding", expected=f"rows of {cols} weights of {type.name}", found=f"shape {data.shape}"
        )
    return to_float(np.ascontiguousarray(data))


def check_finite(x: NDArray[np.floating], tensor: str, row: int = 0) -> None:
    """Raises InputError that names the tensor and the first bad weight if any of x [rows, cols] is NaN or infinite."""
    good = np.isfinite(x)
    if good.all():
        return
    at = np.unravel_index(int(np.argmin(good)), x.shape)
    where = f"tensor {tensor}, row {row + int(at[0])}, column {int(at[1])}"
    hint = "The model is damaged: get the checkpoint again, or ask who made it"
    raise InputError(None, where, expected="a finite weight", found=x[at], hint=hint)


def _check_magnitudes(x: Floats, tile: Tile) -> None:
    largest = max(float(x.max()), -float(x.min()))
    if largest > LARGEST_WEIGHT:
        raise InputError(
            None, f"tensor {tile.tensor}", expected=f"weights up to {LARGEST_WEIGHT:g}", found=f"{largest:g}"
        )
    if tile.importance is None:
        return
    low, high = float(tile.importance.min()), float(tile.importance.max())
    if not (low >= 0 and high <= LARGEST_IMPORTANCE):  # so put that NaN fails
        expected = f"values from 0 to {LARGEST_IMPORTANCE:g}"
        raise InputError(None, f"importance of {tile.tensor}", expected=expected, found=f"{low:g} to {high:g}")


def _checked(encoded: Bytes, type: TensorType, tile: Tile) -> Bytes:
    if ggml.valid(encoded, type):
        return encoded
    where = f"tensor {tile.tensor}, rows {tile.row} to {tile.row + len(encoded) - 1}"
    expected = f"weights that {type.name} can hold"
    raise InputError(None, where, expected=expected, found="a value that overflows", hint="Keep this tensor in BF16")


def _from_f16(data: Bytes) -> Floats:
    with np.errstate(invalid="ignore"):  # a signalling NaN; check_finite reports it
        return data.view("<f2").astype(np.float32)


_FLOATS: Mapping[str, Callable[[Bytes], Floats]] = {
    "F32": lambda data: data.view("<f4"),
    "F16": _from_f16,
    "BF16": lambda data: bf16_to_float32(data.view("<u2")),
}
