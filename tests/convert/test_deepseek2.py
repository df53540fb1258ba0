"""DeepSeek V2 and V3: other forms of the checkpoint, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.gguf import read
from tests.checkpoints import stored, weights
from tests.convert.edits import Raw, content, edit_config, join_experts, raw, refuses, rename, replace, tensors
from tests.convert.test_architectures import checkpoint

LAYER = "model.layers.1"
YARN = {"factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("deepseek-v3", tmp_path)


def bf16(*shape: int) -> Raw:
    return raw(stored(weights(shape, 1, 0.2), "BF16"), "BF16")


def test_older_configuration(folder: Path, tmp_path: Path) -> None:
    """As published: `rope_scaling` with a `type`, `rope_theta`; and without what is V3's anyway."""
    expected = content(folder, tmp_path / "new.gguf")
    edit_config(folder, rope_parameters=None, rope_interleave=None, scoring_func=None, topk_method=None)
    edit_config(folder, rope_theta=10000, rope_scaling=YARN | {"type": "yarn", "mscale": 1.0, "mscale_all_dim": 1.0})
    assert content(folder, tmp_path / "old.gguf") == expected


def test_joined_experts(folder: Path, tmp_path: Path) -> None:
    expected = content(folder, tmp_path / "single.gguf")
    join_experts(folder)
    assert content(folder, tmp_path / "joined.gguf") == expected


def test_text_half(folder: Path, tmp_path: Path) -> None:
    expected = content(folder, tmp_path / "plain.gguf")
    rename(folder, lambda name: f"language_model.{name}")
    assert content(folder, tmp_path / "half.gguf") == expected


def test_tied_output_is_left_out(folder: Path, tmp_path: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    replace(folder, {"lm_head.weight": tensors(folder)["model.embed_tokens.weight"]})
    assert "output.weight" not in content(folder, tmp_path / "out.gguf")[1]


def test_plain_queries_of_any_depth(folder: Path, tmp_path: Path) -> None:
    """llama.cpp expects a rank of the queries but for two numbers of layers; 0 is that there is none."""
    edit_config(folder, q_lora_rank=None)
    parts = ("q_a_proj", "q_a_layernorm", "q_b_proj")
    for layer in (0, 1):
        attention = f"model.layers.{layer}.self_attn"
        replace(folder, {f"{attention}.{part}.weight": None for part in parts})
        replace(folder, {f"{attention}.q_proj.weight": bf16(96, 64)})
    out = convert(folder, tmp_path / "out.gguf")
    with read(out) as model:
        assert model.metadata["deepseek2.attention.q_lora_rank"].value == 0
    with Engine(out) as engine:
        assert np.isfinite(next(iter(engine.logits(np.arange(3, 20, dtype=np.int32)[None])))).all()


def test_fewer_layers(folder: Path) -> None:
    """Only layers that predict further tokens are left out, not those that config.json does not count."""
    edit_config(folder, num_hidden_layers=1)
    refuses(folder, f"more: {LAYER}.", "num_hidden_layers = 1")


def test_groups_of_v2(tmp_path: Path) -> None:
    """As DeepSeek-V2, V2.5 and Coder-V2 have them."""
    folder = checkpoint("deepseek-v2-lite", tmp_path)
    edit_config(folder, n_group=2, topk_group=1, topk_method="group_limited_greedy")
    keys, _ = content(folder, tmp_path / "out.gguf")
    assert keys["deepseek2.expert_group_count"].value == 2
    assert keys["deepseek2.expert_group_used_count"].value == 1


def test_missing_expert(folder: Path) -> None:
    replace(folder, {f"{LAYER}.mlp.experts.3.up_proj.weight": None})
    refuses(folder, "experts 0 to 7", "no expert 3")


def test_too_few_experts(folder: Path) -> None:
    replace(folder, {f"{LAYER}.mlp.experts.7.{kind}_proj.weight": None for kind in ("up", "gate", "down")})
    refuses(folder, "expected [8, ", "found [7, ")


def test_no_bias(folder: Path) -> None:
    replace(folder, {f"{LAYER}.mlp.gate.e_score_correction_bias": None})
    refuses(folder, "blk.1.exp_probs_b.bias")


def test_wrong_shape(folder: Path) -> None:
    replace(folder, {f"{LAYER}.self_attn.kv_b_proj.weight": bf16(128, 32)})
    refuses(folder, f"{LAYER}.self_attn.kv_b_proj.weight: shape", "[112, 32]", "[128, 32]")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("deepseek-v3", {"hidden_act": "gelu"}, ("hidden_act", "'silu'", "'gelu'")),
        ("deepseek-v3", {"attention_bias": True}, ("attention_bias", "True")),
        ("deepseek-v3", {"rope_interleave": False}, ("rope_interleave",)),
        ("deepseek-v3", {"scoring_func": "softmax"}, ("scoring_func", "'sigmoid'", "'softmax'")),
        ("deepseek-v3", {"n_group": 3}, ("n_group", "8 experts", "3")),
        ("deepseek-v3", {"topk_group": 4}, ("topk_group", "fewer than the 4 groups")),
        ("deepseek-v3", {"moe_layer_freq": 2}, ("moe_layer_freq",)),
        ("deepseek-v2-lite", {"n_group": 2, "topk_method": "greedy"}, ("n_group", "'greedy'", "2")),
        ("deepseek-v2-lite", {"n_group": 2, "topk_method": "group_limited_greedy", "topk_group": 2}, ("topk_group",)),
        ("deepseek-v2-lite", {"norm_topk_prob": True}, ("norm_topk_prob",)),
        ("deepseek-v2-lite", {"topk_method": "noaux_tc"}, ("topk_method", "'greedy'")),
    ],
)
def test_what_llama_cpp_computes_otherwise(
    tmp_path: Path, name: str, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    folder = checkpoint(name, tmp_path)
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


@pytest.mark.parametrize(
    ("rope", "word"),
    [
        ({"rope_type": "yarn"}, "mscale_all_dim"),
        ({"rope_type": "yarn", "mscale_all_dim": 0.7, "mscale": 1.0}, "mscale"),
        ({"rope_type": "yarn", "mscale_all_dim": 1.0, "mscale": 1.0, "attention_factor": 1.2}, "attention_factor"),
        ({"rope_type": "linear"}, "rope_type"),
    ],
)
def test_scaling_that_llama_cpp_computes_otherwise(folder: Path, rope: dict[str, Any], word: str) -> None:
    edit_config(folder, rope_parameters=YARN | {"rope_theta": 10000.0} | rope)
    refuses(folder, f"rope_parameters.{word}")
