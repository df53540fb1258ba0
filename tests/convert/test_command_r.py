"""Command-R and Cohere 2: other forms of the checkpoint, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.gguf import ValueType
from tests.convert.edits import content, edit_config, raw, refuses, replace, tensors
from tests.convert.test_architectures import checkpoint

BIAS = "model.layers.0.input_layernorm.bias"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("cohere2", tmp_path)


def test_newer_configuration(folder: Path, tmp_path: Path) -> None:
    expected = content(folder, tmp_path / "old.gguf")
    kinds = ["full_attention" if layer == 3 else "sliding_attention" for layer in range(5)]
    edit_config(folder, layer_types=kinds, sliding_window_pattern=None, rotary_pct=None, logit_scale=0.25)
    assert content(folder, tmp_path / "new.gguf") == expected


def test_another_pattern(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, sliding_window_pattern=2)
    value = content(folder, tmp_path / "out.gguf")[0]["cohere2.attention.sliding_window_pattern"]
    assert value.item is ValueType.BOOL
    assert list(value.value) == [True, False, True, False, True]


def test_biases_of_zeros_are_left_out(folder: Path, tmp_path: Path) -> None:
    expected = content(folder, tmp_path / "without.gguf")
    replace(folder, {BIAS: raw(np.zeros(32, np.float32), "F32")})
    assert content(folder, tmp_path / "with.gguf") == expected


def test_other_biases(folder: Path) -> None:
    replace(folder, {BIAS: raw(np.ones(32, np.float32), "F32")})
    refuses(folder, BIAS, "expected zeros")


def test_output_that_is_the_embedding(tmp_path: Path) -> None:
    folder = checkpoint("command-r", tmp_path)
    expected = content(folder, tmp_path / "without.gguf")
    replace(folder, {"lm_head.weight": tensors(folder)["model.embed_tokens.weight"]})
    assert content(folder, tmp_path / "with.gguf") == expected


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("command-r", {"use_qk_norm": True}, ("use_qk_norm", "False, as llama.cpp", "2 layers", "True")),
        ("command-r-plus", {"use_qk_norm": False}, ("use_qk_norm", "True, as llama.cpp", "64 layers", "False")),
        ("command-r", {"tie_word_embeddings": False}, ("tie_word_embeddings", "True", "False")),
        ("command-r", {"attention_bias": True}, ("attention_bias", "False", "True")),
        ("command-r", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, ("rope_type", "default", "linear")),
        ("cohere2", {"rotary_pct": 0.5}, ("rotary_pct", "1.0", "0.5")),
        ("cohere2", {"layer_types": ["full_attention"]}, ("layer_types", "5 of sliding_attention or full_attention")),
    ],
)
def test_what_llama_cpp_computes_otherwise(
    tmp_path: Path, name: str, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    folder = checkpoint(name, tmp_path)
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


def test_norms_that_are_not_there(tmp_path: Path) -> None:
    folder = checkpoint("command-r-plus", tmp_path)
    replace(folder, {"model.layers.7.self_attn.q_norm.weight": None})
    refuses(folder, "blk.7.attn_q_norm.weight")
