"""Phi-3 and Phi-4: the older forms of the configuration, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.edits import config_of, content, edit_config, refuses, replace, tensors
from tests.convert.test_architectures import checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("phi4-mini", tmp_path)


def rope_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = config_of(folder)["rope_parameters"]
    return found


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_older_configuration(folder: Path, tmp_path: Path, kind: str) -> None:
    """As published: the factors in `rope_scaling`, under one of three names, the rest beside it."""
    expected, found = content(folder, tmp_path / "new.gguf"), rope_of(folder)
    scaling = {key: found[key] for key in ("short_factor", "long_factor")} | {"type": kind}
    edit_config(folder, rope_parameters=None, rope_scaling=scaling, rope_theta=10000.0, partial_rotary_factor=0.75)
    assert content(folder, tmp_path / "old.gguf") == expected


def test_given_attention_factor(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, rope_parameters=rope_of(folder) | {"attention_factor": 1.5})
    assert content(folder, tmp_path / "out.gguf")[0]["phi3.rope.scaling.attn_factor"].value == 1.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, ("hidden_act", "'silu'", "'gelu'")),
        ({"head_dim": 32}, ("head_dim", "16", "32")),
        ({"rope_parameters": {"rope_type": "llama3"}}, ("rope_type", "longrope", "llama3")),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.2}}, ("partial_rotary_factor", "0.2")),
    ],
)
def test_what_llama_cpp_computes_otherwise(folder: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


def test_number_of_factors(folder: Path) -> None:
    edit_config(folder, rope_parameters=rope_of(folder) | {"long_factor": [1.0] * 5})
    refuses(folder, "rope_parameters.long_factor", "6 positive numbers", "[1.0, 1.0, 1.0, 1.0, 1.0]")


def test_wrong_shape(folder: Path) -> None:
    name = "model.layers.1.self_attn.qkv_proj.weight"
    replace(folder, {name: tensors(folder)["model.layers.1.mlp.gate_up_proj.weight"]})
    refuses(folder, f"{name}: shape", "expected [128, 64]", "found [192, 64]")
