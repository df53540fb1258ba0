"""GPT-OSS: MXFP4 carried over bit for bit, and what cannot be converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpress import codec
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Writer, read
from quantpress.quantize import quantize
from tests.convert.edits import Raw, edit_config, raw, refuses, replace, tensors
from tests.convert.test_architectures import TOLERANCE, checkpoint

EXPERTS = "model.layers.0.mlp.experts"
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoint("gpt-oss-mxfp4", tmp_path)


def decoded(codes: Raw, scales: Raw) -> np.ndarray:
    """float32 [experts, rows, columns], from the description of the format."""
    pairs = np.frombuffer(codes.data, np.uint8).reshape(codes.shape)
    numbers = np.array(FP4, np.float32)[np.stack([pairs & 15, pairs >> 4], axis=-1)]
    exponents = np.frombuffer(scales.data, np.uint8).reshape(scales.shape).astype(np.int32) - 127
    return np.ldexp(numbers.reshape(*scales.shape, 32), exponents[..., None]).reshape(*scales.shape[:2], -1)


def test_mxfp4_means_the_same(folder: Path, tmp_path: Path) -> None:
    stored = tensors(folder)
    joined, down = (
        decoded(stored[f"{EXPERTS}.{name}_proj_blocks"], stored[f"{EXPERTS}.{name}_proj_scales"])
        for name in ("gate_up", "down")
    )
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        for name, expected in (("gate", joined[:, ::2]), ("up", joined[:, 1::2]), ("down", down)):
            data = model.data(f"blk.0.ffn_{name}_exps.weight")
            found = codec.decode(data.reshape(*expected.shape[:2], -1), "MXFP4", expected.shape[2])
            np.testing.assert_array_equal(found, expected)


def test_logits_of_decoded_weights(folder: Path, tmp_path: Path) -> None:
    """llama.cpp with the very same weights in F32, which meet activations that are not rounded."""
    with read(convert(folder, tmp_path / "out.gguf", type="F32")) as model:
        specs = [TensorSpec(name, one.shape, TYPES["F32"]) for name, one in model.tensors.items()]
        with Writer(tmp_path / "decoded.gguf", model.metadata, specs) as writer:
            for name, one in model.tensors.items():
                data = model.data(name).reshape(-1, one.type.row_bytes(one.shape[0]))
                writer.write(name, 0, codec.decode(data, one.type.name, one.shape[0]).view(np.uint8))
    with np.load(folder / "logits.npz") as stored:
        tokens, positions, expected = stored["tokens"], stored["positions"], stored["logits"]
    with Engine(tmp_path / "decoded.gguf", cache_type="F32") as engine:
        found = next(iter(engine.logits(tokens[None])))[positions]
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()


def test_older_configuration(tmp_path: Path) -> None:
    """As published: `rope_scaling` and `rope_theta`, no activation, no `layer_types`."""
    folder = checkpoint("gpt-oss", tmp_path)
    with read(convert(folder, tmp_path / "new.gguf")) as model:
        expected = model.metadata
    rope = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0}
    rope["original_max_position_embeddings"] = 32
    edit_config(folder, rope_parameters=None, rope_theta=150000, rope_scaling=rope)
    edit_config(folder, layer_types=None, swiglu_alpha=None, swiglu_limit=None, hidden_act=None, attention_bias=None)
    with read(convert(folder, tmp_path / "old.gguf")) as model:
        assert model.metadata == expected


def test_one_of_two(folder: Path) -> None:
    replace(folder, {f"{EXPERTS}.down_proj_scales": None})
    refuses(folder, "down_proj_blocks", "down_proj_scales beside it")


def test_other_scales(folder: Path) -> None:
    replace(folder, {f"{EXPERTS}.down_proj_scales": raw(np.full((3, 64, 2), 120, np.uint8), "U8")})
    refuses(folder, "down_proj_scales", "[3, 64, 1]", "[3, 64, 2]")


def test_scale_that_is_nan(folder: Path) -> None:
    scales = np.full((3, 64, 1), 120, np.uint8)
    scales[1, 3] = 255
    replace(folder, {f"{EXPERTS}.down_proj_scales": raw(scales, "U8")})
    refuses(folder, "down_proj_scales, row 67", "NaN")


def test_wrong_shape(folder: Path) -> None:
    replace(folder, {f"{EXPERTS}.gate_up_proj_bias": raw(np.zeros((3, 62), "<u2"), "BF16")})
    refuses(folder, "gate_up_proj_bias: shape", "[3, 32]", "[3, 31]")


def test_odd_rows(tmp_path: Path) -> None:
    folder = checkpoint("gpt-oss", tmp_path)
    replace(folder, {f"{EXPERTS}.gate_up_proj": raw(np.zeros((3, 64, 63), "<u2"), "BF16")})
    refuses(folder, "gate_up_proj: shape", "an even number", "[3, 64, 63]")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("swiglu_limit", 10.0),
        ("swiglu_alpha", 1.0),
        ("attention_bias", False),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("tie_word_embeddings", True),
    ],
)
def test_what_llama_cpp_computes_otherwise(folder: Path, field: str, value: object) -> None:
    edit_config(folder, **{field: value})
    refuses(folder, "config.json", field)


def test_wrong_rope(folder: Path) -> None:
    edit_config(folder, rope_parameters={"rope_type": "longrope", "factor": 4.0})
    refuses(folder, "rope_parameters.rope_type", "longrope")


def test_every_recipe_keeps_mxfp4(folder: Path, tmp_path: Path) -> None:
    """Experts in MXFP4 go through every recipe as they are, also through one that ranks by |w|."""
    model = convert(folder, tmp_path / "model-BF16.gguf")
    with read(model) as source:
        trained = {name: source.data(name).tobytes() for name, tensor in source.tensors.items() if tensor.type.trained}
    assert len(trained) == 6
    for path in quantize(model, types=["Q8_0", "Q4_K_M", "MP"], out=tmp_path / "out"):
        with read(path) as file:
            assert {name: file.data(name).tobytes() for name in trained} == trained
            assert file.tensors["blk.0.attn_q.weight"].type.quantized
