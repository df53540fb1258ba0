"""Qwen 2 and 3: embedding models, sliding windows, and forms of the scaling and of the experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_json
from tests.convert.edits import content, edit_config, join_experts, refuses, rename, replace
from tests.convert.test_architectures import checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("qwen3", tmp_path)


def test_yarn_with_a_factor_that_nobody_reads(folder: Path, tmp_path: Path) -> None:
    """DeepSeek-R1-0528-Qwen3-8B: transformers reads `attention_factor` alone."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    edit_config(folder, rope_parameters=None, rope_theta=1e6, rope_scaling=yarn | {"attn_factor": 0.8782488562869419})
    found = content(folder, tmp_path / "out.gguf")[0]
    assert found["qwen3.rope.scaling.factor"].value == 4
    assert found["qwen3.rope.scaling.original_context_length"].value == 32768


def test_embedding_model(folder: Path, tmp_path: Path) -> None:
    """As Qwen3-Embedding-8B: no prefix, no output though it is said to be untied, modules.json."""
    expected = content(folder, tmp_path / "plain.gguf")
    rename(folder, lambda name: name.removeprefix("model."))
    replace(folder, {"lm_head.weight": None})
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True})
    keys, hashes = content(folder, tmp_path / "out.gguf")
    del keys["general.size_label"], expected[0]["general.size_label"]  # without the output it is smaller
    assert keys.pop("qwen3.pooling_type").value == 3
    assert keys == expected[0]
    assert hashes == {name: data for name, data in expected[1].items() if name != "output.weight"}


@pytest.mark.parametrize(
    "changes",
    [
        {"max_window_layers": 28, "sliding_window": 16},
        {"max_window_layers": 0, "sliding_window": 1 << 20},
        {"layer_types": ["full_attention"] * 2, "sliding_window": 16, "max_window_layers": 0},
    ],
)
def test_window_that_no_layer_has(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = content(folder, tmp_path / "plain.gguf")
    edit_config(folder, **({"use_sliding_window": True, "layer_types": None} | changes))
    assert content(folder, tmp_path / "out.gguf") == expected


def test_layers_that_slide(folder: Path) -> None:
    edit_config(folder, use_sliding_window=True, layer_types=None, sliding_window=16, max_window_layers=1)
    refuses(folder, "use_sliding_window", "as llama.cpp attends to all")


def test_joined_experts(tmp_path: Path) -> None:
    folder = checkpoint("qwen3-moe", tmp_path)
    expected = content(folder, tmp_path / "single.gguf")
    join_experts(folder)
    assert content(folder, tmp_path / "joined.gguf") == expected
