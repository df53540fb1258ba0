"""Granite: other names of the tensors, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.edits import Raw, content, edit_config, refuses, rename, replace, tensors
from tests.convert.test_architectures import checkpoint

NAMES = {
    "input_linear.weight": "experts.gate_up_proj",
    "output_linear.weight": "experts.down_proj",
    "router.layer.weight": "router.weight",
}


def test_names_of_transformers_5(tmp_path: Path) -> None:
    """What it has in memory, for those who save that."""
    folder = checkpoint("granite-moe-shared", tmp_path)
    expected = content(folder, tmp_path / "old.gguf")

    def renamed(name: str) -> str:
        head, middle, tail = name.partition("block_sparse_moe.")
        return head + middle + NAMES.get(tail, tail)

    rename(folder, renamed)
    assert any(name.endswith("experts.gate_up_proj") for name in tensors(folder))
    assert content(folder, tmp_path / "new.gguf") == expected


def test_granite_4_of_transformers_5(tmp_path: Path) -> None:
    folder = checkpoint("granite-4", tmp_path)
    expected = content(folder, tmp_path / "old.gguf")
    edit_config(folder, layer_types=["full_attention"] * 2)
    replace(folder, {"model.layers.0.block_sparse_moe.input_linear.weight": Raw("BF16", (0, 192, 64), b"")})
    assert content(folder, tmp_path / "new.gguf") == expected


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("granite", {"hidden_act": "gelu"}, ("hidden_act", "'silu'", "'gelu'")),
        ("granite", {"head_dim": 32}, ("head_dim", "16", "32")),
        ("granite", {"residual_multiplier": -1}, ("residual_multiplier", "a positive number", "-1")),
        ("granite-moe", {"num_local_experts": 0}, ("num_local_experts", "from 1 on", "0")),
        ("granite-4", {"layer_types": ["mamba", "attention"]}, ("layer_types", "Mamba", "convert_hf_to_gguf.py")),
        ("granite-4", {"layer_types": None}, ("layer_types", "2 of attention")),
        ("granite-4", {"position_embedding_type": "nope"}, ("position_embedding_type", "'rope'", "'nope'")),
        ("granite-4", {"num_local_experts": 4}, ("num_local_experts", "0", "4")),
        ("granite-4", {"shared_intermediate_size": 48}, ("intermediate_size", "48", "96")),
    ],
)
def test_what_llama_cpp_computes_otherwise(
    tmp_path: Path, name: str, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    folder = checkpoint(name, tmp_path)
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


def test_too_few_experts(tmp_path: Path) -> None:
    folder = checkpoint("granite-moe", tmp_path)
    edit_config(folder, num_local_experts=4)
    refuses(folder, "shape", "expected [4, ", "found [3, ")


def test_odd_gates(tmp_path: Path) -> None:
    folder = checkpoint("granite-moe", tmp_path)
    name = "model.layers.0.block_sparse_moe.input_linear.weight"
    replace(folder, {name: Raw("BF16", (3, 63, 64), bytes(3 * 63 * 64 * 2))})
    refuses(folder, f"{name}: rows", "a multiple of 2", "63")
