"""Stored checkpoints, changed: tensors of any dtype as their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.errors import CheckpointError
from quantpress.gguf import read
from quantpress.safetensors import read_safetensors
from tests.checkpoints import write_json
from tests.convert.oracle import data_hash

FILE = "model.safetensors"


class Raw(NamedTuple):
    """A tensor as a safetensors file has it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def raw(values: np.ndarray, dtype: str) -> Raw:
    """An array whose bytes are those of `dtype`."""
    return Raw(dtype, values.shape, np.ascontiguousarray(values).tobytes())


def tensors(folder: Path) -> dict[str, Raw]:
    """The tensors of the one file of a checkpoint."""
    return {
        name: Raw(one.dtype, one.shape, one.read(0, math.prod(one.shape[:-1])).tobytes())
        for name, one in read_safetensors(folder / FILE).items()
    }


def write(folder: Path, values: Mapping[str, Raw]) -> None:
    """Those tensors as the one file of a checkpoint."""
    header, position = {}, 0
    for name, one in values.items():
        end = position + len(one.data)
        header[name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    (folder / FILE).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(one.data for one in values.values()))


def rename(folder: Path, name_of: Callable[[str], str]) -> None:
    """Give every tensor another name."""
    write(folder, {name_of(name): one for name, one in tensors(folder).items()})


def replace(folder: Path, changes: Mapping[str, Raw | None]) -> None:
    """Replace, add or (None) remove tensors."""
    write(folder, {name: one for name, one in {**tensors(folder), **changes}.items() if one is not None})


def join_experts(folder: Path) -> None:
    """The experts of each layer as transformers 5 has them in memory: all in one tensor, gate above up."""
    found = tensors(folder)
    layers = sorted({name.partition(".experts.")[0] for name in found if ".mlp.experts." in name})
    joined = {}
    for layer in layers:
        count = sum(name.startswith(f"{layer}.experts.") for name in found) // 3
        for whole, kinds in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            parts = [found[f"{layer}.experts.{number}.{kind}.weight"] for number in range(count) for kind in kinds]
            shape = (count, len(kinds) * parts[0].shape[0], parts[0].shape[1])
            joined[f"{layer}.experts.{whole}"] = Raw(parts[0].dtype, shape, b"".join(part.data for part in parts))
    write(folder, {name: one for name, one in found.items() if ".mlp.experts." not in name} | joined)


def config_of(folder: Path) -> dict[str, Any]:
    """What config.json says."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def edit_config(folder: Path, **changes: Any) -> None:
    """Set fields of config.json; those that are None are removed."""
    config = {**config_of(folder), **changes}
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})


def content(folder: Path, out: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys of the converted checkpoint, and the hashes of its tensors, in whatever order."""
    with read(convert(folder, out)) as model:
        return dict(model.metadata), {name: data_hash(model.data(name)) for name in model.tensors}


def refuses(folder: Path, *words: str) -> None:
    """Converting raises CheckpointError with all the words, and writes nothing."""
    out = folder.parent / "refused.gguf"
    with pytest.raises(CheckpointError) as caught:
        convert(folder, out)
    for word in words:
        assert word in str(caught.value)
    assert not out.exists()
