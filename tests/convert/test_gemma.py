"""Gemma 2 and 4: other forms of the checkpoint, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import edit_json, stored, weights, write_json
from tests.convert.edits import Raw, config_of, content, edit_config, raw, refuses, replace, tensors
from tests.convert.test_architectures import checkpoint

SLIDING, FULL = "sliding_attention", "full_attention"


def keys(folder: Path, name: str) -> dict[str, Any]:
    found, _ = content(folder, folder.parent / "out.gguf")
    return {key.removeprefix(f"{name}."): value.value for key, value in found.items()}


def set_field(folder: Path, field: str, value: object) -> None:
    """Set a field of config.json; None as null, which is not as good as absent."""
    config = config_of(folder)
    write_json(folder / "config.json", config | {field: value})


def bf16(*shape: int) -> Raw:
    return raw(stored(weights(shape, 1, 0.2), "BF16"), "BF16")


# Gemma 2


@pytest.fixture
def gemma2(tmp_path: Path) -> Path:
    return checkpoint("gemma2", tmp_path)


def test_gemma2_published_configuration(gemma2: Path, tmp_path: Path) -> None:
    expected = content(gemma2, tmp_path / "new.gguf")
    edit_config(gemma2, layer_types=None, rope_parameters=None, use_bidirectional_attention=None, rope_theta=10000.0)
    edit_config(gemma2, hidden_act="gelu_pytorch_tanh", cache_implementation="hybrid")
    replace(gemma2, {"lm_head.weight": tensors(gemma2)["model.embed_tokens.weight"]})
    assert content(gemma2, tmp_path / "old.gguf") == expected


def test_gemma2_of_another_pattern_and_rope(gemma2: Path) -> None:
    """llama.cpp reads these keys, though its converter never writes them."""
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}
    edit_config(gemma2, layer_types=[FULL, SLIDING, SLIDING, FULL], rope_parameters=rope)
    found = keys(gemma2, "gemma2")
    assert list(found["attention.sliding_window_pattern"]) == [False, True, True, False]
    assert (found["rope.scaling.type"], found["rope.scaling.factor"], found["rope.freq_base"]) == ("linear", 4, 5000)


def test_gemma2_scale_of_early_files(gemma2: Path, tmp_path: Path) -> None:
    """hidden_size / num_attention_heads, which Google corrected."""
    expected = content(gemma2, tmp_path / "new.gguf")
    edit_config(gemma2, query_pre_attn_scalar=12)
    assert content(gemma2, tmp_path / "old.gguf") == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attn_logit_softcapping", None),
        ("final_logit_softcapping", None),
        ("sliding_window", None),
        ("query_pre_attn_scalar", 13),
        ("hidden_activation", "silu"),
        ("use_bidirectional_attention", True),
        ("attention_bias", True),
        ("tie_word_embeddings", False),
        ("layer_types", [FULL] * 4),
        ("layer_types", [SLIDING, FULL]),
    ],
)
def test_gemma2_that_llama_cpp_computes_otherwise(gemma2: Path, field: str, value: object) -> None:
    set_field(gemma2, field, value)
    refuses(gemma2, "config.json", field)


def test_gemma2_wrong_shape(gemma2: Path) -> None:
    replace(gemma2, {"model.layers.1.self_attn.k_proj.weight": bf16(16, 48)})
    refuses(gemma2, "layers.1.self_attn.k_proj.weight: shape", "[32, 48]", "[16, 48]")


# Gemma 4


@pytest.fixture
def gemma4(tmp_path: Path) -> Path:
    return checkpoint("gemma4", tmp_path)


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    return checkpoint("gemma4-moe", tmp_path)


@pytest.fixture
def e_series(tmp_path: Path) -> Path:
    return checkpoint("gemma4-e", tmp_path)


def test_gemma4_published_configuration(gemma4: Path, tmp_path: Path) -> None:
    """The sizes of the layers that attend to all as fields, and not layer by layer."""
    expected = content(gemma4, tmp_path / "new.gguf")
    edit_config(gemma4, per_layer_config=None, global_head_dim=32, num_global_key_value_heads=1)
    set_field(gemma4, "rope_parameters", None)
    assert content(gemma4, tmp_path / "old.gguf") == expected


def test_gemma4_last_layer_attends_to_all(gemma4: Path, tmp_path: Path) -> None:
    """transformers forces it."""
    expected = content(gemma4, tmp_path / "explicit.gguf")
    edit_config(gemma4, layer_types=[SLIDING, SLIDING, FULL, SLIDING, SLIDING, SLIDING])
    assert content(gemma4, tmp_path / "forced.gguf") == expected


def test_gemma4_without_a_cap(gemma4: Path) -> None:
    """llama.cpp would cap at 30 without the key, which its converter does not write."""
    set_field(gemma4, "final_logit_softcapping", None)
    assert keys(gemma4, "gemma4")["final_logit_softcapping"] == 0.0


def test_gemma4_single_experts(moe: Path, tmp_path: Path) -> None:
    """As tools that quantize to FP8 save them."""
    expected = content(moe, tmp_path / "joined.gguf")
    replace(moe, single_experts(moe))
    assert content(moe, tmp_path / "single.gguf") == expected


def single_experts(folder: Path) -> dict[str, Raw | None]:
    found: dict[str, Raw | None] = {}
    for name, one in tensors(folder).items():
        if ".experts." not in name:
            continue
        found[name] = None
        prefix, _, whole = name.rpartition(".")
        parts = ("gate_proj", "up_proj") if whole == "gate_up_proj" else (whole,)
        count, rows, cols = one.shape
        matrices = np.frombuffer(one.data, "<u2").reshape(count, len(parts), rows // len(parts), cols)
        for number in range(count):
            for part, values in zip(parts, matrices[number], strict=True):
                found[f"{prefix}.{number}.{part}.weight"] = raw(values, "BF16")
    return found


def test_gemma4_missing_expert(moe: Path) -> None:
    changes = single_experts(moe)
    name = "model.layers.1.experts.3.up_proj.weight"
    del changes[name]
    replace(moe, changes)
    refuses(moe, "layers.1.experts.up_proj.weight", "experts 0 to 4", "no expert 3")


def test_gemma4_missing_part(moe: Path) -> None:
    changes = single_experts(moe)
    replace(moe, {name: one for name, one in changes.items() if "layers.1." not in name or "up_proj.w" not in name})
    refuses(moe, "layers.1.experts.gate_proj.weight", "gate, up", "no up")


def test_gemma4_missing_values(gemma4: Path) -> None:
    edit_config(gemma4, attention_k_eq_v=False)
    refuses(gemma4, "blk.2.attn_v.weight")


def test_gemma4_values_beside_keys(e_series: Path) -> None:
    edit_config(e_series, attention_k_eq_v=True)
    refuses(e_series, "layers.2.self_attn.v_proj.weight", "none in layer 2")


def test_gemma4_missing_keys(e_series: Path) -> None:
    replace(e_series, {"model.layers.1.self_attn.k_proj.weight": None})
    refuses(e_series, "blk.1.attn_k.weight")


def test_gemma4_wrong_width(e_series: Path) -> None:
    edit_config(e_series, use_double_wide_mlp=False)
    refuses(e_series, "layers.3.mlp", "[32, 48]", "[32, 96]")


def test_gemma4_wrong_layer_input(e_series: Path) -> None:
    replace(e_series, {"model.embed_tokens_per_layer.weight": bf16(512, 48)})
    refuses(e_series, "embed_tokens_per_layer.weight: shape", "[512, 60]", "[512, 48]")


def test_gemma4_layers_that_differ(gemma4: Path) -> None:
    config = config_of(gemma4)
    for changes in ({"2": {"head_dim": 16}}, {"0": {"head_dim": 32}}, {"2": {"head_dim": 32, "sliding_window": 8}}):
        edit_config(gemma4, per_layer_config=config["per_layer_config"] | changes)
        refuses(gemma4, "per_layer_config", "layers 2, 5")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_activation", "silu"),
        ("attention_bias", True),
        ("use_bidirectional_attention", "all"),
        ("layer_types", [FULL] * 5),
        ("num_kv_shared_layers", 1),
        ("num_kv_shared_layers", 7),
        ("vocab_size_per_layer_input", 500),
        ("rope_parameters", {SLIDING: {"rope_theta": 1e4}, FULL: {"rope_type": "default", "rope_theta": 1e6}}),
        ("rope_parameters", {SLIDING: {"rope_theta": 1e4}, FULL: {"rope_type": "proportional", "factor": 8.0}}),
    ],
)
def test_gemma4_that_llama_cpp_computes_otherwise(e_series: Path, field: str, value: object) -> None:
    set_field(e_series, field, value)
    refuses(e_series, "config.json", field)


def test_gemma4_suppressed_tokens(tmp_path: Path) -> None:
    folder = checkpoint("gemma4-unified", tmp_path)
    edit_json(folder / "generation_config.json", suppress_tokens=[6, 512])
    refuses(folder, "generation_config.json", "suppress_tokens", "under 512")
