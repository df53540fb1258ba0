"""FP8 weights and their scales: what each code is, and which scale belongs to which weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.checkpoint import Section
from quantpress.convert import convert
from quantpress.convert.fp8 import dequantized
from quantpress.errors import CheckpointError
from quantpress.gguf import read
from quantpress.safetensors import read_safetensors
from tests.convert.edits import Raw, edit_config, raw, refuses, rename, replace, tensors, write
from tests.convert.oracle import data_hash
from tests.convert.test_architectures import checkpoint

CODES = np.arange(256, dtype=np.uint8)
UPPER = "model.layers.0.mlp.up_proj.weight"


def decode(folder: Path, values: dict[str, Raw], **quantization: Any) -> np.ndarray:
    """The tensor `w`, float32 in its shape."""
    write(folder, values)
    config = Section(folder / "config.json", {"quantization_config": quantization})
    source = dequantized(read_safetensors(folder / "model.safetensors"), config)["w"]
    return source.floats().reshape(source.shape)


def eight(rows: int, cols: int, *outer: int) -> Raw:
    """Codes that are finite, each in many places."""
    return raw(
        (np.arange(rows * cols * int(np.prod(outer))) % 126).astype(np.uint8).reshape(*outer, rows, cols), "F8_E4M3"
    )


def test_e4m3(tmp_path: Path) -> None:
    """Moved up, the bits are those of a float16 with another bias; but what would be infinite there, is a number."""
    moved = (CODES.astype(np.uint16) & 128) << 8 | (CODES.astype(np.uint16) & 127) << 7
    expected = moved.view(np.float16).astype(np.float32) * 256
    expected[CODES & 127 == 127] = np.nan
    one = {"w": raw(CODES[None], "F8_E4M3"), "w_scale": raw(np.ones(1, np.float32), "F32")}
    found = decode(tmp_path, one)
    np.testing.assert_array_equal(found[0], expected)
    assert (np.nanmax(found), found[0, 1], found[0, 8]) == (448, 2**-9, 2**-6)


def test_e5m2(tmp_path: Path) -> None:
    """The upper half of a float16."""
    expected = (CODES.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    expected[np.isinf(expected)] = np.nan
    one = {"w": raw(CODES[None], "F8_E5M2"), "w_scale": raw(np.ones(1, np.float32), "F32")}
    np.testing.assert_array_equal(decode(tmp_path, one)[0], expected)


@pytest.mark.parametrize("outer", [(), (3,)])
def test_blocks_that_do_not_divide_the_shape(tmp_path: Path, outer: tuple[int, ...]) -> None:
    codes = eight(21, 10, *outer)
    scales = np.random.default_rng(0).random((*outer, 3, 4), np.float32)
    plain = decode(tmp_path, {"w": codes, "w_scale": raw(np.ones(1, np.float32), "F32")})
    found = decode(tmp_path, {"w": codes, "w_scale_inv": raw(scales, "F32")}, weight_block_size=[8, 3])
    spread = scales.repeat(8, axis=-2).repeat(3, axis=-1)[..., :21, :10]
    np.testing.assert_array_equal(found, plain * spread)


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
def test_a_scale_a_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes, scales = eight(5, 6), np.linspace(1, 2, 5, dtype=np.float32)
    plain = decode(tmp_path, {"w": codes, "w_scale": raw(np.ones(1, np.float32), "F32")})
    found = decode(tmp_path, {"w": codes, "w_scale": raw(scales.reshape(shape), "F32")})
    np.testing.assert_array_equal(found, plain * scales[:, None])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_scale_for_all(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = eight(4, 6, 2)
    plain = decode(tmp_path, {"w": codes, "w_scale": raw(np.ones(1, np.float32), "F32")})
    scale = raw(np.full(shape, 0x3F00, "<u2"), "BF16")  # a half
    np.testing.assert_array_equal(
        decode(tmp_path, {"w": codes, "w_scale_inv": scale}, weight_block_size=[2, 2]), plain / 2
    )


def test_compressed_tensors(tmp_path: Path) -> None:
    """The same weights as another tool names and describes them."""
    folder = checkpoint("deepseek-v3-fp8", tmp_path)
    with read(convert(folder, tmp_path / "plain.gguf")) as model:
        expected = {name: data_hash(model.data(name)) for name in model.tensors}
    rename(folder, lambda name: name.replace("_scale_inv", "_scale"))
    group = {"weights": {"type": "float", "num_bits": 8, "strategy": "block", "block_structure": [16, 24]}}
    about = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}
    edit_config(folder, quantization_config=about)
    with read(convert(folder, tmp_path / "compressed.gguf")) as model:
        assert {name: data_hash(model.data(name)) for name in model.tensors} == expected


@pytest.mark.parametrize(
    ("scales", "dtype", "words"),
    [
        (np.ones((2, 3), np.float32), "F32", ("w_scale_inv", "shape [3, 4]", "shape [2, 3] for weights [21, 10]")),
        (np.ones(12, np.float32), "F32", ("w_scale_inv", "shape [3, 4]", "shape [12]")),
        (np.ones((3, 4), np.uint8), "U8", ("w_scale_inv: dtype", "a float", "U8")),
    ],
)
def test_other_scales(tmp_path: Path, scales: np.ndarray, dtype: str, words: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError) as caught:
        decode(tmp_path, {"w": eight(21, 10), "w_scale_inv": raw(scales, dtype)}, weight_block_size=[8, 3])
    for word in words:
        assert word in str(caught.value)


def test_a_vector(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="w: shape: expected a matrix"):
        decode(tmp_path, {"w": raw(CODES[:5], "F8_E4M3"), "w_scale": raw(np.ones(1, np.float32), "F32")})


@pytest.mark.parametrize("size", [[128], [0, 128], [128, "128"]])
def test_wrong_block_size(tmp_path: Path, size: list[Any]) -> None:
    folder = checkpoint("deepseek-v3-fp8", tmp_path)
    edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": size})
    refuses(folder, "quantization_config.weight_block_size", "two sizes")


def test_missing_scale(tmp_path: Path) -> None:
    folder = checkpoint("deepseek-v3-fp8", tmp_path)
    replace(folder, {f"{UPPER}_scale_inv": None})
    refuses(folder, UPPER, f"{UPPER}_scale_inv beside FP8 weights", "none")


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_code_that_is_nan(tmp_path: Path, code: int) -> None:
    folder = checkpoint("deepseek-v3-fp8", tmp_path)
    dtype, shape, data = tensors(folder)[UPPER]
    place = 5 * shape[1] + 7
    replace(folder, {UPPER: Raw(dtype, shape, data[:place] + bytes([code]) + data[place + 1 :])})
    refuses(folder, UPPER, "row 5, column 7", "finite weights", "nan")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, ("quantization_config.quant_method", "'gptq'", "take the original")),
        ({"quant_method": "awq"}, ("quantization_config.quant_method", "'awq'", "FP8")),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, ("config.format", "'pack-quantized'")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("config.quant_algo", "'NVFP4'")),
    ],
)
def test_other_methods(tmp_path: Path, about: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = checkpoint("deepseek-v3-fp8", tmp_path)
    edit_config(folder, quantization_config=about)
    refuses(folder, *words)
