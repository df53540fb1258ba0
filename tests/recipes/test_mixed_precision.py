"""MP: its parameters, its ranking, and the bits a weight on the shape of the model whose card describes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from quantpress import gguf
from quantpress.errors import GGUFError, PlanError
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, Writer
from quantpress.plan import assign, plan
from quantpress.recipes import MIXES, RECIPES, MixedPrecision, recipe
from quantpress.recipes.ranking import ffn_names, ffn_ranks, mean_magnitude
from tests.recipes import shapes


def test_the_ranking_is_that_of_the_weights(bf16_gguf: Path) -> None:
    means = {
        tensor.name: np.abs(dequantize(tensor.data, tensor.tensor_type).astype(np.float64)).mean()
        for tensor in GGUFReader(bf16_gguf).tensors
        if ".ffn_" in tensor.name and "norm" not in tensor.name
    }
    with gguf.read(bf16_gguf) as source:
        assert {name: mean_magnitude(source, name) for name in means} == pytest.approx(means, rel=1e-12)
        ranks = ffn_ranks(source)
    assert sorted(ranks, key=ranks.__getitem__) == sorted(means, key=lambda name: -means[name])
    tensors = plan(bf16_gguf, type="MP").tensors
    top = sorted(means, key=lambda name: -means[name])[: round(0.15 * len(means))]
    assert {name for name in means if tensors[name] == "IQ4_NL"} == set(top)
    assert {tensors[name] for name in means.keys() - set(top)} == {"IQ3_S"}
    assert {type for name, type in tensors.items() if name.startswith("token_embd")} == {"Q5_K"}
    assert {type for name, type in tensors.items() if ".attn_" in name and "norm" not in name} == {"IQ4_NL"}
    assert {type for name, type in tensors.items() if "norm" in name} == {"F32"}


@pytest.mark.parametrize("type", ["F16", "F32"])
def test_means_of_the_other_float_types(type: str, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    rows = weights.astype(np.float16 if type == "F16" else np.float32)
    with gguf.read(one_ffn(tmp_path / "m.gguf", type, rows.view(np.uint8))) as source:
        expected = np.abs(rows.astype(np.float64)).mean()
        assert mean_magnitude(source, "blk.0.ffn_up.weight") == pytest.approx(expected, rel=1e-14)


def test_tiles_do_not_change_a_mean(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gguf.read(bf16_gguf) as source:
        whole = mean_magnitude(source, "blk.0.ffn_up.weight")
        monkeypatch.setattr("quantpress.tiles.TILE", 1000)
        assert mean_magnitude(source, "blk.0.ffn_up.weight") == pytest.approx(whole, rel=1e-14)


def test_equal_means_are_ordered_by_name(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "zeros.gguf", layers=2, hidden=64, ffn_size=64, heads=2, kv_heads=2, vocabulary=64)
    with gguf.read(path) as source:
        assert list(ffn_ranks(source)) == sorted(ffn_names(source))


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = one_ffn(tmp_path / "nan.gguf", "F32", np.array([[1.0, np.nan]], np.float32).view(np.uint8))
    with pytest.raises(GGUFError, match=r"blk\.0\.ffn_up\.weight.*finite"):
        plan(path, type="MP")


def test_a_quantized_source_cannot_be_ranked(tmp_path: Path) -> None:
    path = one_ffn(tmp_path / "q.gguf", "Q8_0", np.zeros((1, 34), np.uint8))
    with pytest.raises(PlanError, match=r"blk\.0\.ffn_up\.weight.*BF16, F16 or F32.*Q8_0"):
        plan(path, type="MP")


def test_bits_a_weight_of_the_cards_model(tmp_path: Path) -> None:
    """3.93 on these shapes, where the order does not matter: all FFN tensors are of one size. The title says 3.98."""
    with gguf.read(shapes.gemma4_31b(tmp_path / "31b.gguf")) as source:
        ranks = {name: rank for rank, name in enumerate(ffn_names(source))}
        types, _ = assign(source, RECIPES["MP"], ranks=ranks)
        specs = [TensorSpec(name, tensor.shape, types[name]) for name, tensor in source.tensors.items()]
    assert len(ranks) == 180
    assert sum(types[name].name == "IQ4_NL" for name in ranks) == 27
    weights = sum(spec.weights for spec in specs)
    assert weights == pytest.approx(30.7e9, rel=2e-3)
    assert f"{8 * sum(spec.nbytes for spec in specs) / weights:.2f}" == "3.93"


def test_parameters() -> None:
    default = MixedPrecision()
    assert recipe("mp") == default.recipe
    assert default.recipe.name == "MP"
    assert default.recipe.file_type == MIXES["IQ3_S"].file_type
    changed = replace(default, fraction=0.2, top="q4_k", rest="IQ3_XXS")
    assert changed.recipe.name == "MP:fraction=0.2,top=Q4_K,rest=IQ3_XXS"
    assert recipe(changed.recipe.name) == changed.recipe == recipe("MP: fraction=0.20, top=q4_K, rest=iq3_xxs")
    assert changed.recipe.file_type == MIXES["IQ3_XXS"].file_type
    assert "FFN in IQ3_XXS, its 20 % of largest mean |w| in Q4_K, attention" in changed.recipe.description


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MP:fraction=1.5", "fraction.*from 0 to 1.*1.5"),
        ("MP:fraction=nan", "fraction.*from 0 to 1.*nan"),
        ("MP:fraction=some", "fraction.*from 0 to 1.*some"),
        ("MP:ffn=Q4_K", "setting of MP.*fraction, top.*ffn"),
        ("MP:", "setting of MP"),
        ("MP:top=Q4_X", "tensor type.*Q4_X"),
        ("MP:top=I8", "top.*encoded.*I8"),
        ("MP:rest=NVFP4", "a mix of.*NVFP4"),
    ],
)
def test_wrong_parameters_are_refused(name: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        recipe(name)


def one_ffn(path: Path, type: str, data: np.ndarray) -> Path:
    """A model of one FFN tensor; `data` uint8 [rows, row_bytes]."""
    rows, row_bytes = data.shape
    kind = TYPES[type]
    spec = TensorSpec("blk.0.ffn_up.weight", (row_bytes // kind.bytes * kind.block, max(rows, 1)), kind)
    if spec.rows == 1:  # a matrix has two rows at least
        spec, data = TensorSpec(spec.name, (spec.cols, 2), kind), np.concatenate([data, data])
    metadata = {"general.architecture": Value.string("llama"), "llama.block_count": Value.u32(1)}
    with Writer(path, metadata, [spec]) as writer:
        writer.write(spec.name, 0, data)
    return path
