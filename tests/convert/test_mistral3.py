"""Ministral 3 and Mistral Small: other forms of the checkpoint, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.gguf import read
from tests.convert.edits import config_of, content, edit_config, raw, refuses, rename, replace, tensors
from tests.convert.test_architectures import checkpoint


def edit_rope(folder: Path, **changes: Any) -> None:
    edit_config(folder, rope_parameters=config_of(folder)["rope_parameters"] | changes)


def test_names_of_newer_files(tmp_path: Path) -> None:
    folder = checkpoint("ministral-3-images", tmp_path)
    expected = content(folder, tmp_path / "old.gguf")
    assert any(name.startswith("language_model.model.") for name in tensors(folder))
    assert any("vision_tower." in name for name in tensors(folder))

    def newer(name: str) -> str:
        inner = name.replace("language_model.model.", "language_model.")
        return name.replace("language_model.", "") if "lm_head" in name else f"model.{inner}"

    rename(folder, newer)
    assert content(folder, tmp_path / "new.gguf") == expected


def test_text_half_that_does_not_say_its_kind(tmp_path: Path) -> None:
    folder = checkpoint("mistral-small", tmp_path)
    expected = content(folder, tmp_path / "new.gguf")
    text = config_of(folder)["text_config"]
    edit_config(folder, text_config={key: value for key, value in text.items() if key != "model_type"})
    assert content(folder, tmp_path / "old.gguf") == expected


def test_eight_bits(tmp_path: Path) -> None:
    """As Ministral 3 is published: a scale for each matrix, and one for what it is multiplied with, which goes."""
    folder = checkpoint("ministral-3-images", tmp_path)
    name = "language_model.model.layers.1.mlp.up_proj"
    exponents = np.arange(96 * 64).reshape(96, 64) % 15 + 1
    half = raw(np.array(0x3F00, "<u2"), "BF16")
    scales = {f"{name}.weight_scale_inv": half, f"{name}.activation_scale": half}
    replace(folder, {f"{name}.weight": raw((exponents << 3).astype(np.uint8), "F8_E4M3")} | scales)
    about = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None, "dequantize": False}
    edit_config(folder, quantization_config=about | {"modules_to_not_convert": ["model.vision_tower", "lm_head"]})
    with read(convert(folder, tmp_path / "out.gguf", type="F32")) as model:
        found = model.data("blk.1.ffn_up.weight").view(np.float32).reshape(96, 64)
    np.testing.assert_array_equal(found, 2.0 ** (exponents - 7) / 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, ("hidden_act", "'silu'", "'gelu'")),
        ({"sliding_window": 32}, ("sliding_window", "none", "32")),
        ({"model_type": "mistral4"}, ("model_type", "ministral3", "mistral4")),
        ({"rope_parameters": None}, ("rope_type", "yarn", "default")),
    ],
)
def test_what_llama_cpp_computes_otherwise(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = checkpoint("ministral-3", tmp_path)
    edit_config(folder, **changes)
    refuses(folder, "config.json", *words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"llama_4_scaling_beta": None}, "llama_4_scaling_beta"),
        ({"mscale": 0.5}, "attention_factor"),
        ({"attention_factor": 1.5}, "attention_factor"),
    ],
)
def test_rope_that_llama_cpp_computes_otherwise(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    folder = checkpoint("ministral-3", tmp_path)
    edit_rope(folder, **changes)
    refuses(folder, f"rope_parameters.{word}")
