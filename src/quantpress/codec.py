"""Rows of weights to any tensor type and back, by the C++ core (native/).

An encoder looks, block by block, for the scales and codes that keep the weighted squared error

    sum_j importance[j] * (x[j] - decoded[j])**2

small, where `importance[j]` is the mean square of the activation that column j meets: that is what the layer's output
is off by, on average. ggml's encoders weigh large weights more on top of that; measured on held-out text, the plain
sum gives the same or a smaller divergence, and it is the number that is reported. How a type is searched is told at the
head of its file in native/kernels/; a scalar version to read is in native/reference/.

Where that sum is least, the decoded weights of types of less than four bits are too small, which adds up over a layer's
inputs as other errors do not: the scales of each row are made larger at the end (native/kernels/size.hpp).

The same bytes come out on every machine, for any number of threads and however the rows are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantpress import _native
from quantpress.arrays import Bytes, Floats
from quantpress.cpu import default_threads
from quantpress.errors import InputError, PlanError
from quantpress.formats import TYPES, TensorType, tensor_type

__all__ = [
    "EFFORTS",
    "Encoded",
    "check_importance",
    "decode",
    "encode",
    "encode_rows",
    "error",
    "knows",
    "not_finite",
]

EFFORTS = ("fast", "normal", "best")
LARGEST_WEIGHT = 65504.0  # scales are float16
_LARGEST = {"F32": 3.4028234663852886e38, "F16": 65519.99609375, "BF16": 3.396177326406364e38}
LARGEST_IMPORTANCE = 1e15  # far below where sums overflow float32

_KNOWN = frozenset(_native.types())
_F32 = TYPES["F32"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `encode_rows` gives, in the order of its types."""

    data: list[Bytes]  # [rows, bytes of a row] each; empty unless wanted
    errors: NDArray[np.float64]  # weighted squared errors [types, rows]; [types, 0] unless wanted


def encode(
    x: ArrayLike,
    type: str,
    importance: ArrayLike | None = None,
    threads: int | None = None,
    effort: str = "normal",
) -> Bytes:
    """Encodes weights to a tensor type.

    Args:
        x: float32 [rows, cols] or [matrices, rows, cols], finite, up to ±65504; other floats are converted. `cols` is a
            multiple of the type's block.
        type: its name in any case, as in `formats.TYPES`.
        importance: float32 [cols], of three-dimensional weights [matrices, cols]; from 0 to 1e15. The weight of each
            column's squared error; None: all alike.
        threads: default all that this process may use.
        effort: "fast", "normal" or "best": time spent on a smaller error.

    Returns:
        uint8 [rows, bytes of a row] or [matrices, rows, bytes of a row].

    Raises:
        PlanError: an unknown type or effort, one that the core does not encode, or shapes that do not fit.
        InputError: a weight or an importance is NaN, infinite or too large.
    """
    found = [one.data[0] for one in _encode_matrices(x, type, importance, threads=threads, effort=effort)]
    return found[0] if np.ndim(x) == 2 else np.stack(found)


def error(
    x: ArrayLike,
    type: str,
    importance: ArrayLike | None = None,
    threads: int | None = None,
    effort: str = "normal",
) -> NDArray[np.float64]:
    """The weighted squared error of each row when encoded to a type: float64 [rows] or [matrices, rows].

    Arguments and errors raised as for `encode`; the bytes are not kept.
    """
    how: dict[str, Any] = {"threads": threads, "effort": effort, "keep": False, "errors": True}
    found = [one.errors[0] for one in _encode_matrices(x, type, importance, **how)]
    return found[0] if np.ndim(x) == 2 else np.stack(found)


def decode(data: Bytes, type: str, cols: int, threads: int | None = None) -> Floats:
    """Decodes uint8 [..., bytes of a row] of a tensor type to float32 [..., cols], exactly.

    Raises PlanError for a type that the core does not know, or rows of another length.
    """
    found = _known(tensor_type(type))
    _check_rows(data, found, cols)
    rows = np.ascontiguousarray(data).reshape(-1, data.shape[-1])
    x = np.empty((len(rows), cols), np.float32)
    _native.decode(rows, found.name, x, threads=threads or default_threads())
    return x.reshape(*data.shape[:-1], cols)


def encode_rows(
    data: Bytes,
    source: TensorType,
    cols: int,
    types: Sequence[TensorType],
    importance: Floats | None = None,
    *,
    keep: bool = True,
    errors: bool = False,
    threads: int | None = 1,
    effort: str = "normal",
    tensor: str = "",
    row: int = 0,
) -> Encoded:
    """Rows of one matrix, in any type, to several types at once: the source is read and decoded once.

    Args:
        data: uint8 [rows, bytes of a row].
        source: the type of `data`.
        cols: weights of a row.
        types: to encode to; none, to look for weights that are NaN or infinite.
        importance: float32 [cols], as for `encode`.
        keep: whether the encoded bytes are wanted.
        errors: whether the weighted squared error of each row is wanted.
        threads: work at the same time; None: all that this process may use.
        effort: as for `encode`.
        tensor: what messages call the tensor.
        row: what messages call the first row.

    Raises:
        PlanError, InputError: as `encode`.
    """
    if effort not in EFFORTS:
        raise PlanError(None, "effort", expected=f"one of {', '.join(EFFORTS)}", found=effort)
    check_importance(importance, cols, tensor)
    _check_rows(data, _known(source), cols)
    out = [np.empty((len(data), _known(type).row_bytes(cols)), np.uint8) if keep else None for type in types]
    found = np.empty((len(types), len(data)))
    bad = _native.encode(
        np.ascontiguousarray(data),
        source.name,
        cols,
        [type.name for type in types],
        out,
        importance,
        errors=found if errors else None,
        limit=_limit(types),
        effort=EFFORTS.index(effort),
        restore=True,
        threads=threads or default_threads(),
    )
    if bad is not None:
        _refuse(data, source, cols, bad, _limit(types), tensor, row)
    return Encoded([one for one in out if one is not None], found if errors else found[:, :0])


def knows(type: TensorType) -> bool:
    """Whether the core encodes and decodes the type."""
    return type.name in _KNOWN


def not_finite(where: str, value: object) -> InputError:
    """The error for a weight that is NaN or infinite."""
    hint = "The model is damaged: get the checkpoint again, or ask who made it"
    return InputError(None, where, expected="a finite weight", found=value, hint=hint)


def check_importance(importance: Floats | None, cols: int, tensor: str = "") -> None:
    """Raises PlanError for another shape than [cols], InputError for values that are NaN, negative or too large."""
    if importance is None:
        return
    what = f"importance of {tensor}" if tensor else "importance"
    if importance.shape != (cols,):
        raise PlanError(None, what, expected=f"{cols} columns", found=f"shape {importance.shape}")
    low, high = float(importance.min()), float(importance.max())
    if not (low >= 0 and high <= LARGEST_IMPORTANCE):  # so put that NaN fails
        raise InputError(None, what, expected=f"values from 0 to {LARGEST_IMPORTANCE:g}", found=f"{low:g} to {high:g}")


def _limit(types: Sequence[TensorType]) -> float:
    """The largest weight that all of them hold: rounding up from there would give infinity."""
    largest = (LARGEST_WEIGHT if type.quantized else _LARGEST[type.name] for type in types)
    return min(largest, default=_LARGEST["F32"])


def _refuse(data: Bytes, source: TensorType, cols: int, bad: int, limit: float, tensor: str, first: int) -> NoReturn:
    row, col = divmod(bad, cols)
    value = float(decode(data[row : row + 1], source.name, cols)[0, col])
    where = f"{f'tensor {tensor}, ' if tensor else ''}row {first + row}, column {col}"
    if not np.isfinite(value):
        raise not_finite(where, value)
    hint = "Keep this tensor in BF16"
    raise InputError(None, where, expected=f"weights up to {limit:g}", found=f"{value:g}", hint=hint)


def _check_rows(data: Bytes, type: TensorType, cols: int) -> None:
    if data.dtype != np.uint8 or data.ndim < 1 or data.shape[-1] != type.row_bytes(cols):
        expected = f"uint8, rows of {type.row_bytes(cols)} bytes for {cols} weights of {type.name}"
        raise PlanError(None, "encoded rows", expected=expected, found=f"{data.dtype}, shape {data.shape}")


def _known(type: TensorType) -> TensorType:
    if type.name in _KNOWN:
        return type
    raise PlanError(None, "tensor type", expected=f"one of {', '.join(_native.types())}", found=type.name)


def _encode_matrices(x: ArrayLike, type: str, importance: ArrayLike | None, **how: Any) -> Iterator[Encoded]:
    wanted = [tensor_type(type)]
    for data, cols, columns in _matrices(x, importance):
        yield encode_rows(data, _F32, cols, wanted, columns, **how)


def _matrices(x: ArrayLike, importance: ArrayLike | None) -> Iterator[tuple[Bytes, int, Floats | None]]:
    """The bytes of each matrix's float32 rows, their columns, and its importance."""
    weights = np.require(x, np.float32, "C")
    if weights.ndim not in (2, 3) or 0 in weights.shape[:-2]:
        raise PlanError(None, "weights", expected="one matrix, or a stack of them", found=f"shape {weights.shape}")
    cols = weights.shape[-1]
    matrices = weights.view(np.uint8).reshape(*weights.shape[:-2] or (1,), weights.shape[-2], 4 * cols)
    if importance is None:
        yield from ((matrix, cols, None) for matrix in matrices)
        return
    columns = np.require(importance, np.float32, "C")
    expected = (*weights.shape[:-2], cols)
    if columns.shape != expected:
        raise PlanError(None, "importance", expected=f"shape {expected}", found=f"shape {columns.shape}")
    yield from zip(matrices, repeat(cols), columns.reshape(-1, cols))
