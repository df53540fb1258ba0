"""What bench/kernels.py asks of a type before it times it: the right bytes on every instruction set, and the right
weights from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import gguf as oracle
import numpy as np
from numpy.typing import NDArray

import quantpress
from quantpress import _native
from quantpress.arrays import Bytes, Floats
from quantpress.codec import EFFORTS
from quantpress.engine import ggml
from quantpress.formats import TensorType

ROWS = 8  # of each sample


@dataclass(frozen=True)
class Sample:
    """Weights of one distribution."""

    name: str
    x: Floats  # [rows, cols]
    importance: Floats  # [cols]


def verify(type: TensorType, samples: Iterable[Sample], effort: str) -> list[str]:
    """What is wrong with a type: its name, the sample and the check, a line each."""
    failed = []
    for sample in samples:
        x = np.ascontiguousarray(sample.x[:ROWS])
        for importance in (sample.importance, None):
            what = f"{type.name}, {sample.name}, {'no ' if importance is None else ''}importance: "
            failed += [what + check for check in failed_checks(type, x, importance, effort)]
    return failed


def failed_checks(type: TensorType, x: Floats, importance: Floats | None, effort: str) -> Iterator[str]:
    encoded = quantpress.encode(x, type.name, importance, effort=effort)
    reference = encode_on("reference", type, x, importance, effort) if type.quantized else ggml.quantize(x, type, None)
    for isa in _native.isas():
        if not np.array_equal(encode_on(isa, type, x, importance, effort), reference):
            yield f"{isa} writes other bytes than the reference"
    if not ggml.valid(encoded, type):
        yield "ggml finds the bytes invalid"
    expected = np.asarray(oracle.quants.dequantize(encoded, oracle.GGMLQuantizationType[type.name]), np.float32)
    for isa in _native.isas():
        decoded = np.empty_like(x)
        _native.decode(encoded, type.name, decoded, isa=isa)
        if not np.array_equal(decoded.view(np.uint32), expected.view(np.uint32)):
            yield f"{isa} decodes other weights than the gguf package"
    reported = quantpress.error(x, type.name, importance, effort=effort)
    if not np.allclose(reported, squared_errors(x, expected, importance), rtol=1e-9, atol=0):
        yield "the error that quantpress.error reports is not that of the decoded weights"


def encode_on(isa: str, type: TensorType, x: Floats, importance: Floats | None, effort: str) -> Bytes:
    rows, cols = x.shape
    out = np.empty((rows, type.row_bytes(cols)), np.uint8)
    _native.encode(x.view(np.uint8), "F32", cols, [type.name], [out], importance, effort=EFFORTS.index(effort), isa=isa)
    return out


def squared_errors(x: Floats, y: Floats, importance: Floats | None) -> NDArray[np.float64]:
    """sum_j importance[j] (x[j] - y[j])^2 of each row."""
    weights = 1.0 if importance is None else importance.astype(np.float64)
    found: NDArray[np.float64] = (weights * (x.astype(np.float64) - y) ** 2).sum(axis=1)
    return found
