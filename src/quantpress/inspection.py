"""What is in a GGUF file, and what is in this installation."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import _native
from quantpress.cpu import instruction_set
from quantpress.engine import about
from quantpress.gguf import read

__all__ = ["info", "inspect"]

_SHOWN_ITEMS = 8


def inspect(path: str | Path) -> dict[str, Any]:
    """Metadata, tensors, type histogram and bits a weight of a GGUF file (all its parts); raises GGUFError.

    Keys: `file`, `parts`, `bytes`, `version`, `alignment`, `weights`, `bits_per_weight` (tensor data over weights),
    `types` {name: {"tensors", "weights", "bytes"}}, `metadata` {key: value, long arrays shortened}, `tensors`
    [{"name", "type", "shape"}], in the file's order.
    """
    with read(path) as file:
        tensors = list(file.tensors.values())
        weights, nbytes = sum(t.weights for t in tensors), sum(t.nbytes for t in tensors)
        return {
            "file": str(path),
            "parts": [part.name for part in file.paths],
            "bytes": sum(part.stat().st_size for part in file.paths),
            "version": file.version,
            "alignment": file.alignment,
            "weights": weights,
            "bits_per_weight": 8 * nbytes / weights if weights else 0.0,
            "types": _histogram(tensors),
            "metadata": {key: _shown(value.value) for key, value in file.metadata.items()},
            "tensors": [{"name": t.name, "type": t.type.name, "shape": list(t.shape)} for t in tensors],
        }


def info() -> dict[str, Any]:
    """Versions, instruction sets and the engine's build.

    Raises InputError for a QUANTPRESS_ISA that is not available, EngineError if llama.cpp does not load.

    Keys: `version`, `isa` (the one in use), `isas` (all that this machine can use, the best first), `engine`
    {"llama_cpp_python", "llama_cpp", "system", "gpu_offload"}.
    """
    isa = instruction_set()
    return {"version": version("quantpress"), "isa": isa, "isas": _native.isas(), "engine": about()}


def _histogram(tensors: list[Any]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for tensor in tensors:
        counts.setdefault(tensor.type.name, Counter()).update(tensors=1, weights=tensor.weights, bytes=tensor.nbytes)
    return {name: dict(count) for name, count in sorted(counts.items(), key=lambda item: -item[1]["bytes"])}


def _shown(value: Any) -> Any:
    """A metadata value as JSON; of a long array its head and its length, of text that is no UTF-8 its bytes."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if isinstance(value, list) and len(value) > _SHOWN_ITEMS:
        return {"length": len(value), "first": _shown(value[:_SHOWN_ITEMS])}
    return [_shown(item) for item in value] if isinstance(value, list) else value
