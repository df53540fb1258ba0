"""The `general.*` keys: name, size, licence, base models, tags, languages, and how to sample.

They come from the front matter of README.md, generation_config.json, config.json and the folder's name, by the rules
of thumb in the `gguf` package, which are llama.cpp's converter's. Its writer serves as a collector; it writes nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import yaml  # type: ignore[import-untyped]

from quantpress.checkpoint import Checkpoint
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["general"]


def general(
    checkpoint: Checkpoint, architecture: str, shapes: Mapping[str, tuple[int, ...]], *, mmproj: bool = False
) -> Metadata:
    """The keys for a model with tensors of these shapes (GGUF name to shape, outermost first).

    Raises CheckpointError for a malformed README.md or generation_config.json.
    """
    writer = gguf.GGUFWriter(path=None, arch=architecture)
    for name, shape in shapes.items():
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 0)
    writer.add_type(gguf.GGUFType.MMPROJ if mmproj else gguf.GGUFType.MODEL)
    counts = writer.get_total_parameter_count()
    try:
        _load(checkpoint, counts).set_gguf_meta_model(writer)
        return {key: _value(entry) for key, entry in writer.kv_data[0].items()}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise CheckpointError(
            checkpoint.path, "README.md or generation_config.json", expected="a model card's fields", found=found
        ) from error


def _load(checkpoint: Checkpoint, counts: tuple[int, int, int, int]) -> gguf.Metadata:
    with tempfile.TemporaryDirectory() as folder:  # the rules of thumb read the folder's name
        named = Path(folder) / checkpoint.name
        named.symlink_to(checkpoint.path)
        found = gguf.Metadata.load(None, named, None, counts[0])
    if found.sampling_penalty_repeat is None and (generation := checkpoint.json("generation_config.json")):
        # newer than the published package
        found.sampling_penalty_repeat = generation.get("repetition_penalty")
    found.name = found.name or checkpoint.name
    found.size_label = found.size_label or gguf.size_label(*counts)
    return found


def _value(entry: Any) -> Value:
    """A value of the `gguf` package as one of ours; a number in the place of a text (`version: 1.0`) is spelled out."""
    kind = ValueType(int(entry.type))
    if kind is ValueType.ARRAY:
        item = ValueType(int(entry.sub_type or gguf.GGUFValueType.get_type(entry.value[0])))
        return Value.array(item, entry.value)
    if kind is ValueType.STRING and isinstance(entry.value, (int, float, date)):
        return Value.string(str(entry.value))
    return Value(kind, entry.value)
