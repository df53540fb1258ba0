"""Llama, Mistral and Mixtral: the output, what config.json leaves out, and scalings of the rope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.edits import content, edit_config, refuses, rename, replace, tensors
from tests.convert.test_architectures import checkpoint

OUTPUT, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return checkpoint("llama-3.1", tmp_path)


@pytest.mark.parametrize("name", ["llama-2", "mistral", "qwen3", "phi", "granite-moe", "deepseek-v3", "qwen3.5"])
@pytest.mark.parametrize("said", [False, None])
def test_lost_output(tmp_path: Path, name: str, said: bool | None) -> None:
    folder = checkpoint(name, tmp_path)
    edit_config(folder, tie_word_embeddings=said)
    replace(folder, {OUTPUT: None})
    refuses(folder, "none for 1: output.weight", "tie_word_embeddings must be true")


@pytest.mark.parametrize("name", ["llama-3.1", "qwen2", "granite", "phi4-mini", "gemma2", "gemma4"])
def test_output_that_is_the_embedding(tmp_path: Path, name: str) -> None:
    folder = checkpoint(name, tmp_path)
    expected = content(folder, tmp_path / "without.gguf")
    replace(folder, {OUTPUT: tensors(folder)[EMBEDDING]})
    assert content(folder, tmp_path / "with.gguf") == expected


def test_tied_output_that_differs(tmp_path: Path) -> None:
    """transformers 5 keeps both then."""
    folder = checkpoint("llama-2", tmp_path)
    expected = content(folder, tmp_path / "untied.gguf")
    edit_config(folder, tie_word_embeddings=True)
    assert content(folder, tmp_path / "tied.gguf") == expected


def test_output_that_llama_cpp_cannot_have(tmp_path: Path) -> None:
    folder = checkpoint("gemma2", tmp_path)
    embedding = tensors(folder)[EMBEDDING]
    replace(folder, {OUTPUT: embedding._replace(data=embedding.data[::-1])})
    refuses(folder, f"1 more: {OUTPUT}")


def test_without_prefix(tied: Path, tmp_path: Path) -> None:
    expected = content(tied, tmp_path / "with.gguf")
    rename(tied, lambda name: name.removeprefix("model."))
    assert content(tied, tmp_path / "without.gguf") == expected


@pytest.mark.parametrize(
    ("name", "context", "base", "epsilon"),
    [("llama-2", 2048, 1e4, 1e-6), ("mistral", 131_072, 1e4, 1e-6), ("mixtral", 131_072, 1e6, 1e-5)],
)
def test_silent_configuration(tmp_path: Path, name: str, context: int, base: float, epsilon: float) -> None:
    folder = checkpoint(name, tmp_path)
    edit_config(folder, max_position_embeddings=None, rms_norm_eps=None, rope_parameters=None, rope_theta=None)
    found = content(folder, tmp_path / "out.gguf")[0]
    assert found["llama.context_length"].value == context
    assert found["llama.rope.freq_base"].value == base
    assert found["llama.attention.layer_norm_rms_epsilon"].value == pytest.approx(epsilon)


@pytest.mark.parametrize("field", ["max_position_embeddings", "rms_norm_eps", "hidden_size", "num_attention_heads"])
def test_null_where_llama_cpp_needs_a_value(tied: Path, field: str) -> None:
    path = tied / "config.json"
    text = path.read_text(encoding="utf-8").replace(f'"{field}":', f'"{field}": null, "was":')
    path.write_text(text, encoding="utf-8")
    refuses(tied, "config.json", field, "found None")


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        (
            {"type": "dynamic", "factor": 2.0},
            ("rope_scaling.type", "default or linear or yarn or llama3,", "put 'default'"),
        ),
        ({"rope_type": "longrope"}, ("rope_scaling.rope_type", "default or linear or yarn or llama3,", "'longrope'")),
        ({"type": "linear"}, ("rope_scaling.factor", "a positive number")),
        ({"type": "yarn", "factor": 4.0, "beta_fast": 16}, ("rope_scaling.beta_fast",)),
    ],
)
def test_scaling(tied: Path, scaling: dict[str, Any], words: tuple[str, ...]) -> None:
    edit_config(tied, rope_parameters=None, rope_scaling=scaling, rope_theta=10000.0)
    refuses(tied, "config.json", *words)
