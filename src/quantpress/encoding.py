"""The seam of quantization: rows of a matrix in, the same rows in every wanted type out.

`encode_tile` is a function of a `Tile`; whatever runs it stays outside. A tile never crosses a matrix, because each
expert of a mixture has its own importance, and blocks are encoded independently of each other, or of other rows at
least, so the bytes do not depend on how a tensor is cut.

Two encoders: our own core (codec.py), and ggml's, whose bytes are those that llama-quantize writes. Both are given
finite weights only: ggml's abort the process on some others and write silently broken blocks, with finite scales, for
the rest. With the effort "compensated" and second moments of its inputs our own pays errors back (compensation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import codec
from quantpress.arrays import Bytes, Floats
from quantpress.codec import check_importance
from quantpress.compensation import Compensator
from quantpress.engine import ggml
from quantpress.errors import InputError, PlanError
from quantpress.factor import knows as compensates
from quantpress.formats import TYPES, TensorType

__all__ = [
    "COMPENSATED",
    "ENCODERS",
    "PLAIN",
    "Encoder",
    "Tile",
    "check_encodable",
    "check_finite",
    "decode",
    "encode_tile",
    "encoder_named",
    "tile_energies",
    "tile_errors",
    "tiles_of",
]

COMPENSATED = "compensated"  # the effort that uses second moments
PLAIN = "normal"  # that of what has none, or no use for them

Errors = NDArray[np.float64]

# Far above what any block type can hold (scales are float16), far below where ggml's sums overflow float32.
LARGEST_WEIGHT = 1e10


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
    compensator: Compensator | None = None  # of the matrix, for the effort "compensated"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Who encodes a tile's rows to types other than its own, and what it can spend on a smaller error."""

    encode: Callable[[Tile, Sequence[TensorType], str], list[Bytes]]  # tile, types, effort
    errors: Callable[[Tile, Sequence[TensorType], str], Errors]  # likewise: [types, rows]
    encodes: Callable[[TensorType], bool]
    requires_importance: Callable[[TensorType], bool]  # to encode the type at all
    efforts: tuple[str, ...]


def encode_tile(tile: Tile, encoder: str = "quantpress", effort: str = "normal") -> list[Bytes]:
    """Encodes a tile to each of its types: uint8 [rows, bytes of a row] each, in the order of `tile.types`.

    Its own type gives the bytes of the source.

    Raises:
        InputError: a weight or an importance is NaN, infinite or beyond what a type can hold; names tensor and row.
        PlanError: an unknown encoder or effort, a type that it cannot encode or decode, rows of another length.
    """
    coder = encoder_named(encoder, effort)
    others = [type for type in tile.types if type != tile.type]
    if tile.type.kind == "integer" and not others:
        return [tile.data for _ in tile.types]  # indices: nothing that could be NaN
    check_encodable(others, encoder, tile.tensor)
    encoded = dict(zip(others, coder.encode(tile, others, effort), strict=True))
    return [encoded.get(type, tile.data) for type in tile.types]


def tile_errors(tile: Tile, encoder: str = "quantpress", effort: str = "normal") -> Errors:
    """The weighted squared errors of a tile's rows in each of its types: float64 [types, rows].

    Σ importance[j] (w[j] - decoded[j])², with 1 for importance where there is none; of a compensated tile (w - decoded)
    H (w - decoded)ᵀ. Raises as `encode_tile`.
    """
    coder = encoder_named(encoder, effort)
    check_encodable(tile.types, encoder, tile.tensor)
    return coder.errors(tile, tile.types, effort)


def tile_energies(tile: Tile) -> Errors:
    """The weighted sum of squares of each row of a tile: float64 [rows]."""
    squares = np.square(decode(tile.data, tile.type, tile.cols), dtype=np.float64)
    return squares.sum(axis=1) if tile.importance is None else squares @ tile.importance.astype(np.float64)


@contextmanager
def tiles_of(path: Path) -> Iterator[None]:
    """Name the file in what is raised for its tiles, which do not know it."""
    try:
        yield
    except InputError as error:
        where = path if error.path is None else error.path
        raise type(error)(where, error.field, expected=error.expected, found=error.found, hint=error.hint) from error


def encoder_named(name: str, effort: str = "normal") -> Encoder:
    """The encoder of that name; raises PlanError that lists the known ones, or the efforts that it has."""
    if name not in ENCODERS:
        raise PlanError(None, "encoder", expected=f"one of {', '.join(ENCODERS)}", found=name)
    found = ENCODERS[name]
    if effort not in found.efforts:
        raise PlanError(None, f"effort of {name}", expected=f"one of {', '.join(found.efforts)}", found=effort)
    return found


def check_encodable(types: Iterable[TensorType], encoder: str, tensor: str) -> None:
    """Raises PlanError for the first of a tensor's types that the encoder does not encode; says which one does."""
    for type in types:
        if not ENCODERS[encoder].encodes(type):
            able = [f"--encoder {name} encodes it" for name, coder in ENCODERS.items() if coder.encodes(type)]
            expected, hint = f"a type that can be encoded by {encoder}", able[0] if able else None
            raise PlanError(None, f"tensor {tensor}", expected=expected, found=type.name, hint=hint)


def decode(data: Bytes, type: TensorType, cols: int) -> Floats:
    """Decodes rows of any type that holds weights: uint8 [rows, bytes of a row] to float32 [rows, cols], exactly.

    Raises PlanError for a type without weights (an integer) or rows of another length.
    """
    return codec.decode(data, type.name, cols, threads=1) if codec.knows(type) else ggml.dequantize(data, type, cols)


def check_finite(x: NDArray[np.floating], tensor: str, row: int = 0) -> None:
    """Raises InputError that names the tensor and the first bad weight if any of x [rows, cols] is NaN or infinite."""
    good = np.isfinite(x)
    if good.all():
        return
    at = np.unravel_index(int(np.argmin(good)), x.shape)
    raise codec.not_finite(f"tensor {tensor}, row {row + int(at[0])}, column {int(at[1])}", x[at])


def _by_core(tile: Tile, types: Sequence[TensorType], effort: str) -> list[Bytes]:
    if effort != COMPENSATED or tile.compensator is None:
        return _core_rows(tile, types, effort=PLAIN if effort == COMPENSATED else effort).data
    x = decode(tile.data, tile.type, tile.cols)
    if not np.abs(x).max() <= codec.LARGEST_WEIGHT:  # so put that NaN fails
        _core_rows(tile, types, keep=False)  # which says where
    found = {type: tile.compensator.encode(x, type) for type in types if compensates(type)}
    rest = [type for type in types if found.get(type) is None]
    found.update(zip(rest, _core_rows(tile, rest).data, strict=True))
    return [data for type in types if (data := found[type]) is not None]


def _core_errors(tile: Tile, types: Sequence[TensorType], effort: str) -> Errors:
    if effort != COMPENSATED or tile.compensator is None:
        effort = PLAIN if effort == COMPENSATED else effort
        return _core_rows(tile, types, effort=effort, keep=False, errors=True).errors
    x = decode(tile.data, tile.type, tile.cols)
    encoded = zip(types, _by_core(tile, types, effort), strict=True)
    return np.stack([tile.compensator.cost(x - decode(data, type, tile.cols)) for type, data in encoded])


def _core_rows(tile: Tile, types: Sequence[TensorType], **how: Any) -> codec.Encoded:
    data, source = tile.data, tile.type
    if not codec.knows(source):
        data, source = ggml.dequantize(data, source, tile.cols).view(np.uint8), TYPES["F32"]
    return codec.encode_rows(data, source, tile.cols, types, tile.importance, tensor=tile.tensor, row=tile.row, **how)


def _by_ggml(tile: Tile, types: Sequence[TensorType], effort: str) -> list[Bytes]:
    x = decode(tile.data, tile.type, tile.cols)
    check_finite(x, tile.tensor, tile.row)
    if any(type.quantized for type in types):
        _check_magnitudes(x, tile)
    return [_checked(ggml.quantize(x, type, tile.importance), type, tile) for type in types]


def _ggml_errors(tile: Tile, types: Sequence[TensorType], effort: str) -> Errors:
    x = decode(tile.data, tile.type, tile.cols).astype(np.float64)
    columns = np.ones(tile.cols) if tile.importance is None else tile.importance.astype(np.float64)
    encoded = zip(types, _by_ggml(tile, types, effort), strict=True)
    return np.stack([(x - decode(data, type, tile.cols)) ** 2 @ columns for type, data in encoded])


def _check_magnitudes(x: Floats, tile: Tile) -> None:
    largest = max(float(x.max()), -float(x.min()))
    if largest > LARGEST_WEIGHT:
        raise InputError(
            None, f"tensor {tile.tensor}", expected=f"weights up to {LARGEST_WEIGHT:g}", found=f"{largest:g}"
        )
    check_importance(tile.importance, tile.cols, tile.tensor)


def _checked(encoded: Bytes, type: TensorType, tile: Tile) -> Bytes:
    if ggml.valid(encoded, type):
        return encoded
    where = f"tensor {tile.tensor}, rows {tile.row} to {tile.row + len(encoded) - 1}"
    expected = f"weights that {type.name} can hold"
    raise InputError(None, where, expected=expected, found="a value that overflows", hint="Keep this tensor in BF16")


ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "quantpress": Encoder(_by_core, _core_errors, codec.knows, lambda _: False, (*codec.EFFORTS, COMPENSATED)),
        "ggml": Encoder(_by_ggml, _ggml_errors, lambda type_: type_.encodable, ggml.requires_importance, ("normal",)),
    }
)
