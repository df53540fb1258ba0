"""Weights in FP8 with scales beside them, as DeepSeek and others publish them, back to float32.

    weight             F8_E4M3 [rows, cols]
    weight_scale_inv   a float each block of weight_block_size [128, 128] (at the edges they may be smaller), or each
                       row, or one for all. Experts in one tensor [experts, rows, cols] have scales [experts, .., ..].

A weight is its FP8 number times the scale of its block. (The field's name is a misnomer: it is no inverse.)
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping

import numpy as np

from quantpress.arrays import Floats
from quantpress.checkpoint import Section
from quantpress.convert.sources import Bytes, Source, stored
from quantpress.errors import CheckpointError
from quantpress.formats import TYPES
from quantpress.safetensors import StoredTensor

__all__ = ["dequantized"]

_SCALES = ("_scale_inv", "_scale")
_UNUSED = re.compile(r".*\.(activation_scale|input_scale|k_scale|v_scale)|.*_activation_scale")  # of activations
_ALL = 1 << 62  # in one block


def dequantized(tensors: Mapping[str, StoredTensor], config: Section) -> dict[str, Source]:
    """All tensors as sources; those in FP8 as float32, their scales used up.

    Raises CheckpointError for a weight without its scale, and for scales of another shape.
    """
    eights = {name for name, tensor in tensors.items() if tensor.dtype in _TABLES}
    scales = {f"{name}{end}" for name in eights for end in _SCALES}
    size = _block_size(config)
    found = {}
    for name, tensor in tensors.items():
        if name in eights:
            found[name] = _scaled(tensor, _scale_of(name, tensors), size)
        elif name not in scales and not (eights and _UNUSED.fullmatch(name)):
            found[name] = stored(tensor)
    return found


def _scale_of(name: str, tensors: Mapping[str, StoredTensor]) -> Source:
    for end in _SCALES:
        if tensor := tensors.get(f"{name}{end}"):
            scales = stored(tensor)
            if scales.type.kind != "float":
                raise CheckpointError(tensor.path, f"{tensor.name}: dtype", expected="a float", found=tensor.dtype)
            return scales
    raise CheckpointError(tensors[name].path, name, expected=f"{name}_scale_inv beside FP8 weights", found="none")


def _block_size(config: Section) -> tuple[int, int]:
    """Rows and columns that share a scale; where there are no blocks, all of a row do."""
    about = config.section("quantization_config")
    groups = about.section("config_groups")
    weights = groups.section(next(iter(groups.values), "")).section("weights")
    size = about.items("weight_block_size") or weights.items("block_structure") or [1, _ALL]
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise config.error("quantization_config.weight_block_size", "two sizes", size)
    return size[0], size[1]


def _scaled(tensor: StoredTensor, scales: Source, size: tuple[int, int]) -> Source:
    if len(tensor.shape) < 2:
        raise CheckpointError(tensor.path, f"{tensor.name}: shape", expected="a matrix", found=list(tensor.shape))
    *outer, height, cols = tensor.shape
    high, wide = size if math.prod(scales.shape) > 1 else (height, cols)
    expected = (*outer, -(-height // high), -(-cols // wide))
    if math.prod(scales.shape) > 1 and scales.shape not in (expected, expected[:-1] if expected[-1] == 1 else expected):
        found = f"shape {list(scales.shape)} for weights {list(tensor.shape)}"
        raise CheckpointError(scales.path, scales.name, expected=f"shape {list(expected)}", found=found)

    @functools.cache  # not before the weights are read: their file may not be here yet
    def grid() -> Floats:
        """A row for each block of rows, matrix after matrix; one scale for all is repeated."""
        return np.resize(scales.floats(), (math.prod(expected[:-1]), expected[-1]))

    columns = np.arange(cols) // wide
    table = _TABLES[tensor.dtype]

    def read(start: int, stop: int) -> Bytes:
        matrix, row = np.divmod(np.arange(start, stop), height)
        weights: Floats = table[tensor.read(start, stop)] * grid()[matrix * expected[-2] + row // high][:, columns]
        return weights.view(np.uint8)

    return Source(tensor.path, tensor.name, tensor.shape, TYPES["F32"], read)


def _table(exponent_bits: int, mantissa_bits: int, *, infinities: bool) -> Floats:
    """The float32 of each byte. E5M2 follows IEEE; E4M3 has no infinities, and NaN only where all bits are set."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    values = np.where(exponent > 0, 1 + mantissa, mantissa) * 2.0 ** (np.maximum(exponent, 1) - bias)
    if infinities:
        values[exponent == (1 << exponent_bits) - 1] = np.nan  # infinite or NaN: neither is a weight
    values[codes & 127 == 127] = np.nan
    signed: Floats = np.where(codes > 127, -values, values).astype(np.float32)
    return signed


_TABLES = {"F8_E4M3": _table(4, 3, infinities=False), "F8_E5M2": _table(5, 2, infinities=True)}
