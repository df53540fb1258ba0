"""The halves that see: what llama.cpp's converter writes, and the vectors of an image that transformers gives."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from quantpress.cli import app
from quantpress.convert import convert
from quantpress.convert.sources import Source, reshaped
from quantpress.errors import CheckpointError
from quantpress.formats import TYPES
from quantpress.gguf import read
from tests.convert.edits import config_of, edit_config, rename
from tests.convert.images import vectors
from tests.convert.oracle import data_hash, metadata
from tests.convert.test_architectures import CASES, DATA, checkpoint

SEEING = [name for name in CASES if (DATA / "checkpoints" / name / "mmproj.json").is_file()]

TOLERANCE = 2e-3
"""Largest difference of vectors, in standard deviations of them. Gemma 3 comes to 7e-4, Gemma 4 to 4e-4."""

ADDED = {
    # Else llama.cpp takes the quick GELU, x · sigmoid(1.702 x), and the vectors are off by 0.02 standard deviations
    "gemma4-vision": {"clip.use_gelu": ["BOOL", True]},
}
"""Keys that llama.cpp's converter does not write, and should."""


@pytest.mark.parametrize("name", SEEING)
def test_equals_llama_cpp(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    expected = json.loads((folder / "mmproj.json").read_text(encoding="utf-8"))
    with read(convert(folder, tmp_path / "mmproj-out.gguf", mmproj=True)) as model:
        assert metadata(model) == expected["metadata"] | ADDED.get(name, {})
        found = {
            name: [list(tensor.shape), tensor.type.name, data_hash(model.data(name))]
            for name, tensor in model.tensors.items()
        }
    assert found == {tensor: rest for tensor, *rest in expected["tensors"]}


@pytest.mark.parametrize("name", SEEING)
def test_vectors_of_an_image(name: str, tmp_path: Path) -> None:
    """Both halves' files, loaded together by llama.cpp's mtmd."""
    folder = checkpoint(name, tmp_path)
    with np.load(folder / "image.npz") as stored:
        pixels, expected = stored["pixels"], stored["vectors"]
    model = convert(folder, tmp_path / "out.gguf", type="F32")
    mmproj = convert(folder, tmp_path / "mmproj-out.gguf", type="F32", mmproj=True)
    found = vectors(model, mmproj, pixels)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()


def edited(name: str, tmp_path: Path, **fields: Any) -> Path:
    """A checkpoint with other fields in config.json; those of `vision_config` are merged into it."""
    folder = checkpoint(name, tmp_path)
    config = config_of(folder)
    if "vision_config" in fields:
        fields["vision_config"] = config["vision_config"] | fields["vision_config"]
    edit_config(folder, **fields)
    return folder


def edit_processor(folder: Path, **fields: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def types(name: str, type: str, tmp_path: Path) -> dict[str, str]:
    folder = checkpoint(name, tmp_path)
    with read(convert(folder, tmp_path / f"{type}.gguf", type=type, mmproj=True)) as model:
        return {tensor: found.type.name for tensor, found in model.tensors.items()}


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
def test_types_that_llama_cpp_wants(type: str, tmp_path: Path) -> None:
    gemma3, gemma4 = types("gemma3-vision", type, tmp_path), types("gemma4-vision", type, tmp_path)
    assert gemma3["mm.input_projection.weight"] == "F16"
    assert (
        gemma3["v.patch_embd.weight"] == gemma3["v.position_embd.weight"] == gemma4["v.position_embd.weight"] == "F32"
    )
    assert gemma4["v.patch_embd.weight"] == ("F16" if type == "F16" else "F32")
    assert gemma4["mm.input_projection.weight"] == gemma3["v.blk.0.ffn_up.weight"] == type


def test_names_of_transformers_5(tmp_path: Path) -> None:
    """It has no `vision_model` in them, and may put `model` before them."""
    folder = checkpoint("gemma3-vision", tmp_path)
    expected = hashes(convert(folder, tmp_path / "expected.gguf", mmproj=True))
    for old, new in (("vision_tower.vision_model.", "vision_tower."), ("vision_tower.", "model.vision_tower.")):
        rename(folder, partial(re.sub, f"^{old}", new))
        assert hashes(convert(folder, tmp_path / "found.gguf", mmproj=True)) == expected


def hashes(path: Path) -> dict[str, str]:
    with read(path) as model:
        return {name: data_hash(model.data(name)) for name in model.tensors}


def test_usual_pooling_has_no_key(tmp_path: Path) -> None:
    folder = edited("gemma3-vision", tmp_path, mm_tokens_per_image=1)
    edit_processor(folder, image_seq_length=1)
    with read(convert(folder, tmp_path / "out.gguf", mmproj=True)) as model:
        assert "clip.vision.projector.scale_factor" not in model.metadata
    folder = edited("gemma4-vision", tmp_path, vision_config={"pooling_kernel_size": 2})
    with read(convert(folder, tmp_path / "out.gguf", mmproj=True)) as model:
        assert model.metadata["clip.vision.projector.scale_factor"].value == 2


def test_processor_config(tmp_path: Path) -> None:
    """Newer checkpoints have the settings of images there."""
    folder = checkpoint("gemma4-vision", tmp_path)
    expected = convert(folder, tmp_path / "expected.gguf", mmproj=True).read_bytes()
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}), encoding="utf-8")
    assert convert(folder, tmp_path / "found.gguf", mmproj=True).read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama-2", {}, "no vision_config"),
        ("gemma3-vision", {"architectures": []}, "architectures"),
        ("gemma3-vision", {"vision_config": {"hidden_act": "gelu"}}, "vision_config.hidden_act"),
        ("gemma3-vision", {"vision_config": {"image_size": 57}}, "a multiple of patch_size, 14"),
        ("gemma3-vision", {"mm_tokens_per_image": 9}, "image_seq_length"),
        (
            "gemma3-vision",
            {"vision_config": {"image_size": 70}},
            r"position_embedding.weight: shape: expected \[25, 32\]",
        ),
        ("gemma3-vision", {"vision_config": {"num_hidden_layers": 3}}, "none for 16: v.blk.2"),
        (
            "gemma3-vision",
            {"vision_config": {"intermediate_size": 64}},
            r"fc1.bias: shape: expected \[64\], found \[48\]",
        ),
        ("gemma4-vision", {"vision_config": {"head_dim": 32}}, "vision_config.head_dim"),
        ("gemma4-vision", {"vision_config": {"num_key_value_heads": 1}}, "vision_config.num_key_value_heads"),
        ("gemma4-vision", {"vision_config": {"patch_size": 8}}, r"input_proj.weight: shape: expected \[32, 3, 8, 8\]"),
        ("gemma4-vision", {"vision_config": {"use_clipped_linears": False}}, "input_max: expected none"),
        ("gemma4-vision", {"vision_config": {"rope_parameters": {"rope_theta": 10.0}}}, "rope_theta"),
    ],
)
def test_what_llama_cpp_does_not_compute(name: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(edited(name, tmp_path, **fields), tmp_path / "out.gguf", mmproj=True)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"image_mean": [0.5]}, "image_mean: expected three numbers"), ({"image_std": None}, "image_std")],
)
def test_scale_of_pixels(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = checkpoint("gemma3-vision", tmp_path)
    edit_processor(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "out.gguf", mmproj=True)


@pytest.mark.parametrize("tokens", [3, 9])
def test_pooling_of_unequal_parts(tokens: int, tmp_path: Path) -> None:
    folder = edited("gemma3-vision", tmp_path, mm_tokens_per_image=tokens)
    edit_processor(folder, image_seq_length=tokens)
    with pytest.raises(CheckpointError, match="mm_tokens_per_image: expected the square of a divisor of the 4 patches"):
        convert(folder, tmp_path / "out.gguf", mmproj=True)


def test_no_image_processor(tmp_path: Path) -> None:
    folder = checkpoint("gemma3-vision", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json or processor_config.json, found neither"):
        convert(folder, tmp_path / "out.gguf", mmproj=True)


def test_command_line(tmp_path: Path) -> None:
    folder = checkpoint("gemma3-vision", tmp_path)
    out = tmp_path / "mmproj-model-F16.gguf"
    done = CliRunner().invoke(app, ["convert", str(folder), str(out), "--mmproj", "--type", "F16", "--quiet"])
    assert done.exit_code == 0, done.output
    with read(out) as model:
        assert model.metadata["general.type"].value == "mmproj"
        assert model.metadata["general.file_type"].value == 1


@pytest.mark.parametrize(("start", "stop"), [(0, 24), (1, 2), (5, 13), (6, 12), (23, 24)])
def test_rows_of_a_reshaped_tensor(start: int, stop: int, tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.float32).reshape(4, 12)
    data = values.view(np.uint8)
    source = Source(tmp_path, "patches", (4, 12), TYPES["F32"], lambda first, last: data[first:last])
    made = reshaped(source, (4, 3, 2, 2))
    assert made.shape == (4, 3, 2, 2)
    assert made.floats(start, stop).tolist() == values.reshape(24, 2)[start:stop].tolist()
