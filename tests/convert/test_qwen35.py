"""Qwen 3.5: other forms of the checkpoint, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.gguf import read
from tests.checkpoints import write_json
from tests.convert.edits import config_of, content, edit_config, join_experts, raw, refuses, rename, replace, tensors
from tests.convert.test_architectures import checkpoint

LAYER = "model.layers.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("qwen3.5", tmp_path)


def test_decay(folder: Path, tmp_path: Path) -> None:
    """-exp of what is stored; value heads 0, 3, 1, 4, 2, 5, as two key heads have three each."""
    bits = np.frombuffer(tensors(folder)[f"{LAYER}.linear_attn.A_log"].data, "<u2").astype(np.uint32) << 16
    expected = -np.exp(bits.view(np.float32).astype(np.float64))[[0, 3, 1, 4, 2, 5]]
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        found = np.frombuffer(model.data("blk.0.ssm_a").tobytes(), np.float32)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_conditional_generation(folder: Path, tmp_path: Path) -> None:
    """As published: the text half's fields in `text_config`, its tensors beside those of images."""
    expected = content(folder, tmp_path / "text.gguf")
    config = config_of(folder)
    text = {key: value for key, value in config.items() if key not in ("architectures", "transformers_version")}
    whole = {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text}
    write_json(folder / "config.json", whole)
    rename(folder, lambda name: name.replace("model.", "model.language_model."))
    replace(folder, {"model.visual.merger.norm.weight": raw(np.zeros(8, "<u2"), "BF16")})
    assert content(folder, tmp_path / "half.gguf") == expected


def test_silent_configuration(folder: Path, tmp_path: Path) -> None:
    """Without what is the same in all of them, and with the older places of what is not."""
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    edit_config(folder, full_attention_interval=2, layer_types=kinds)
    expected = content(folder, tmp_path / "all.gguf")
    edit_config(folder, layer_types=None, attention_bias=None, hidden_act=None, linear_conv_kernel_dim=None)
    edit_config(folder, rope_parameters=None, rope_theta=1e7, partial_rotary_factor=0.25)
    assert content(folder, tmp_path / "few.gguf") == expected


def test_joined_experts(tmp_path: Path) -> None:
    folder = checkpoint("qwen3.5-moe", tmp_path)
    metadata, data = content(folder, tmp_path / "single.gguf")
    join_experts(folder)
    assert content(folder, tmp_path / "joined.gguf") == (metadata, data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linear_num_value_heads": 5}, ("linear_num_value_heads", "a multiple of the 2 key heads", "5")),
        ({"linear_value_head_dim": 8}, ("linear_value_head_dim", "16", "8")),
        ({"hidden_act": "gelu"}, ("hidden_act", "'silu'", "'gelu'")),
        ({"num_hidden_layers": 2_000_000_000, "layer_types": None}, ("num_hidden_layers", "at most 46")),
        ({"attn_output_gate": False}, ("attn_output_gate", "True")),
        ({"attention_bias": True}, ("attention_bias", "False")),
        ({"layer_types": ["linear_attention", "full_attention"]}, ("layer_types", "3 of linear_attention")),
        ({"layer_types": ["sliding_attention", "full_attention", "full_attention"]}, ("layer_types",)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, ("rope_type", "'linear'")),
        ({"rope_parameters": {"rope_theta": 1e7, "mrope_section": [11, "11", 10]}}, ("mrope_section",)),
        (
            {"rope_parameters": {"rope_theta": 1e7, "partial_rotary_factor": 1.5}},
            ("partial_rotary_factor", "32", "1.5"),
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise(folder: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    edit_config(folder, **changes)
    refuses(folder, *words)


def test_layers_of_another_kind(folder: Path) -> None:
    edit_config(folder, layer_types=["full_attention"] * 3)
    refuses(folder, f"{LAYER}.linear_attn", "none in layer 0")


def test_wrong_shape(folder: Path) -> None:
    replace(folder, {f"{LAYER}.linear_attn.conv1d.weight": raw(np.zeros((160, 1, 3), "<u2"), "BF16")})
    refuses(folder, f"{LAYER}.linear_attn.conv1d.weight: shape", "[160, 4]", "[160, 1, 3]")


def test_missing_tensor(folder: Path) -> None:
    replace(folder, {f"{LAYER}.linear_attn.dt_bias": None})
    refuses(folder, "blk.0.ssm_dt.bias")
