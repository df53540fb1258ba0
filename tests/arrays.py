"""GGUF files of arrays, sound or not, for those who read statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import gguf
from quantpress.formats import TYPES

_TYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64"}


def write_arrays(path: Path, keys: gguf.Metadata, data: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """A tensor an array, in the type of its elements."""
    specs = [gguf.TensorSpec(name, one.shape[::-1], TYPES[_TYPES[one.dtype.name]]) for name, one in data.items()]
    with gguf.Writer(path, keys, specs) as writer:
        for name, values in data.items():
            writer.write(name, 0, np.ascontiguousarray(values).view(np.uint8))
    return path
