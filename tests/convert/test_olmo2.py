"""OLMo 2 and 3: the published form of the configuration, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.edits import config_of, content, edit_config, refuses, replace
from tests.convert.test_architectures import checkpoint

SLIDING = {"rope_type": "default", "rope_theta": 500000.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("olmo3", tmp_path)


def rope_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = config_of(folder)["rope_parameters"]
    return found


def test_silent_configuration(folder: Path, tmp_path: Path) -> None:
    expected = content(folder, tmp_path / "new.gguf")
    edit_config(folder, layer_types=None, rms_norm_eps=None, hidden_act=None)
    assert content(folder, tmp_path / "old.gguf") == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bias": True}, ("attention_bias", "False", "True")),
        ({"tie_word_embeddings": True}, ("tie_word_embeddings", "False", "True")),
        ({"layer_types": ["chunked_attention"] * 5}, ("layer_types", "5 of sliding_attention or full_attention")),
        ({"layer_types": ["full_attention"] * 4}, ("layer_types", "5 of sliding_attention or full_attention")),
    ],
)
def test_what_llama_cpp_computes_otherwise(folder: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"attention_factor": 1.0}, "attention_factor"),
        ({"beta_fast": 16.0}, "beta_fast"),
        ({"truncate": False}, "truncate"),
        ({"mscale": 1.0, "mscale_all_dim": 0.5, "attention_factor": None}, "attention_factor"),
    ],
)
def test_yarn_that_llama_cpp_computes_otherwise(folder: Path, changes: dict[str, Any], word: str) -> None:
    edit_config(folder, rope_parameters={"full_attention": rope_of(folder)["full_attention"] | changes})
    refuses(folder, f"rope_parameters.full_attention.{word}", "as llama.cpp computes it")


@pytest.mark.parametrize(
    ("changes", "word"), [({"rope_theta": 1e4}, "rope_theta"), ({"rope_type": "yarn"}, "rope_type")]
)
def test_rope_of_sliding_layers(folder: Path, changes: dict[str, Any], word: str) -> None:
    edit_config(folder, rope_parameters=rope_of(folder) | {"sliding_attention": SLIDING | changes})
    refuses(folder, f"rope_parameters.sliding_attention.{word}")


def test_no_output(folder: Path) -> None:
    replace(folder, {"lm_head.weight": None})
    refuses(folder, "output.weight")
