"""Weights in MXFP4, as GPT-OSS publishes them, in the order of GGUF's blocks: all bits are carried over, none is lost.

    <name>_blocks   U8 [.., rows, groups, 16]   32 codes of 4 bits: byte i has 2i in its low half, 2i + 1 in its high
    <name>_scales   U8 [.., rows, groups]       exponent of each group, 127 more than it is

    GGUF's block    the exponent, then 16 bytes: byte i has code i in its low half, code i + 16 in its high

Both name the same sixteen numbers by the same codes (ggml keeps them doubled, and halves the scale).
"""

from __future__ import annotations

import re

import numpy as np

from quantpress.arrays import Bytes
from quantpress.checkpoint import Section
from quantpress.convert.architecture import Sources, Step
from quantpress.convert.sources import Source
from quantpress.errors import CheckpointError
from quantpress.formats import TYPES

__all__ = ["blocks", "mxfp4"]

_TYPE = TYPES["MXFP4"]
_CODES = _TYPE.bytes - 1  # bytes of a group
_NAN = 255  # the exponent that is no number


def mxfp4(pattern: str, replacement: str) -> Step:
    """Each `<name>_blocks` with its `<name>_scales` as one tensor; pattern and replacement are of the names before `_`.

    Raises CheckpointError where one of the two is missing, or they do not fit each other.
    """
    expression = re.compile(f"({pattern})_(blocks|scales)")

    def step(sources: Sources, config: Section) -> Sources:
        del config
        found: Sources = {}
        for name, source in sources.items():
            if match := expression.fullmatch(name):
                other = f"{match[1]}_{'scales' if name.endswith('_blocks') else 'blocks'}"
                if other not in sources:
                    raise CheckpointError(source.path, source.name, expected=f"{other} beside it", found="none")
                if name.endswith("_blocks"):
                    found[re.sub(pattern, replacement, match[1])] = blocks(source, sources[other])
            else:
                found[name] = source
        return found

    return step


def blocks(codes: Source, scales: Source) -> Source:
    """Codes [.., rows, groups, 16] and their scales [.., rows, groups] as MXFP4 [.., rows, 32 groups].

    Raises CheckpointError for other shapes or types; reading raises it for a scale that is NaN.
    """
    bytes_ = TYPES["I8"]
    if codes.type != bytes_ or len(codes.shape) < 3 or codes.cols != _CODES:
        expected, found = f"bytes [.., rows, groups, {_CODES}]", f"{codes.type.name} {list(codes.shape)}"
        raise CheckpointError(codes.path, codes.name, expected=expected, found=found)
    if (scales.type, scales.shape) != (bytes_, codes.shape[:-1]):
        expected, found = f"bytes {list(codes.shape[:-1])}", f"{scales.type.name} {list(scales.shape)}"
        raise CheckpointError(scales.path, scales.name, expected=expected, found=found)
    groups = codes.shape[-2]

    def read(start: int, stop: int) -> Bytes:
        halves = codes.read(start * groups, stop * groups).reshape(stop - start, groups, 2, _CODES // 2)
        first, second = halves[:, :, 0], halves[:, :, 1]
        block = np.empty((stop - start, groups, _TYPE.bytes), np.uint8)
        block[:, :, 0] = scales.read(start, stop)
        block[:, :, 1::2] = first & 15 | second << 4
        block[:, :, 2::2] = first >> 4 | second & 0xF0
        if (block[:, :, 0] == _NAN).any():
            row = start + int((block[:, :, 0] == _NAN).any(axis=1).argmax())
            raise CheckpointError(scales.path, f"{scales.name}, row {row}", expected="finite scales", found="NaN")
        return block.reshape(stop - start, -1)

    return Source(codes.path, codes.name, (*codes.shape[:-2], groups * _TYPE.block), _TYPE, read)
