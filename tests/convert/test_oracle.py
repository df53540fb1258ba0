"""Our files against those of llama.cpp's own converter: every key, every tensor, every byte of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.gguf import GGUF, read
from tests.checkpoints import VARIANTS
from tests.convert.oracle import CASES, FILE, data_hash, metadata

# Five in six layers slide unless the file says otherwise; llama.cpp's converter leaves that out, see test_reference.py.
ONLY_OURS = {"older-style": {"gemma3.attention.sliding_window_pattern"}}

F16_CHECKPOINTS = {"older-style"}


@pytest.fixture(scope="session")
def oracle(data: Path) -> dict[str, Any]:
    return json.loads((data / FILE).read_text(encoding="utf-8"))


def comparable(model: GGUF, name: str, variant: str) -> np.ndarray:
    """The data; where llama.cpp's converter adds 1 to a norm in F16, rounded as it does (transformers adds in F32)."""
    data = model.data(name)
    if variant in F16_CHECKPOINTS and name.endswith("_norm.weight"):
        return data.view(np.float32).astype(np.float16).astype(np.float32)
    return data


@pytest.mark.parametrize(("variant", "type_name"), [(name, kind) for name, kinds in CASES.items() for kind in kinds])
def test_equals_llama_cpp(variant: str, type_name: str, oracle: dict[str, Any], tmp_path: Path) -> None:
    folder = VARIANTS[variant](tmp_path)
    expected = oracle[f"{variant} {type_name}"]
    with read(convert(folder, tmp_path / "out.gguf", type=type_name)) as model:
        ours = metadata(model)
        assert ours.keys() - expected["metadata"].keys() == ONLY_OURS.get(variant, set())
        assert {key: ours.get(key) for key in expected["metadata"]} == expected["metadata"]
        tensors = [
            [name, list(tensor.shape), tensor.type.name, data_hash(comparable(model, name, variant))]
            for name, tensor in model.tensors.items()
        ]
        assert tensors == expected["tensors"]
