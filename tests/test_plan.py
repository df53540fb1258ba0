"""Plans: exact sizes, the release card's table, and the two files that hold a plan."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.errors import ImatrixError, OutputError, PlanError
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, ValueType, Writer
from quantpress.metadata import ImatrixInfo, quantized_metadata
from quantpress.plan import check, from_json, missing_importance, plan, read_plan
from quantpress.recipes import MIXES, RECIPES
from tests.recipes import shapes
from tests.recipes.oracle import Job, dry_runs, quantized

INFO = ImatrixInfo("imatrix.gguf", "calibration.txt", 238, 128)

# Name and size in GB (10^9 bytes) of the release card's files: a Gemma 3 4B, made in March 2025 with llama.cpp b4925.
CARD = """
BF16 7.77  Q8_0 4.13  Q6_K_L 3.35  Q6_K 3.19  Q5_K_L 2.99  Q5_K_M 2.83  Q5_K_S 2.76  Q4_K_L 2.65  Q4_1 2.56  Q4_K_M 2.49
Q3_K_XL 2.40  Q4_K_S 2.38  Q4_0 2.37  IQ4_NL 2.36  IQ4_XS 2.26  Q3_K_L 2.24  Q3_K_M 2.10  IQ3_M 1.99  Q3_K_S 1.94
Q2_K_L 1.89  IQ3_XS 1.86  Q2_K 1.73  IQ3_XXS 1.69  IQ2_M 1.54
"""


def test_sizes_of_the_release_card(tmp_path: Path) -> None:
    """All 24 as printed, so today's mixes give this model the types that b4925 gave it.

    What has changed since does not touch it. Q2_K and Q3_K fall back to Q4_0, no longer to IQ4_NL: all rows here are
    multiples of 256. Fused attention tensors count as values, per-layer embeddings as embeddings: there are none.
    The imatrix counts are u32 and were i32. The vision half of the model is a file of its own (mmproj), not in the
    table. The header is that of made-up pieces: any from 5.6 to 7.0 MB gives the same table, the real one
    has about 6.5; so do 262208 rows, which a checkpoint that states that vocabulary size gets.
    """
    with gguf.read(shapes.gemma3_4b(tmp_path / "gemma-3-4b.gguf", vocabulary=True)) as source:
        assert 6.4e6 < source.tensors["token_embd.weight"].offset < 6.7e6
        sizes = {name: plan(source, type=name, imatrix=INFO).bytes for name in CARD.split()[::2]}
    assert len(sizes) == 24
    assert {name: f"{size / 1e9:.2f}" for name, size in sizes.items()} == dict(
        zip(*[iter(CARD.split())] * 2, strict=True)
    )


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_S", "F16"])
def test_a_plan_has_the_size_of_the_file_that_llama_cpp_writes(name: str, bf16_gguf: Path, tmp_path: Path) -> None:
    written = quantized(bf16_gguf, tmp_path / "q.gguf", Job(RECIPES[name].file_type))
    found = plan(bf16_gguf, type=name)
    with gguf.read(written) as file:
        assert {name: tensor.type.name for name, tensor in file.tensors.items()} == found.tensors
        specs = [TensorSpec(name, tensor.shape, found.types[name]) for name, tensor in file.tensors.items()]
    with gguf.read(bf16_gguf) as source:
        theirs = quantized_metadata(source, found.file_type, quantized_by=None)  # the one key that llama.cpp lacks
        assert gguf.layout(theirs, specs).file_bytes == written.stat().st_size
        assert gguf.layout(quantized_metadata(source, found.file_type), specs).file_bytes == found.bytes


def test_more_metadata_makes_a_larger_file(bf16_gguf: Path) -> None:
    small, large = (plan(bf16_gguf, type="Q4_0", extra={"a": Value.string("x" * n)}).bytes for n in (0, 3200))
    assert large - small == 3200


def test_bits_a_weight(bf16_gguf: Path) -> None:
    (choice,) = dry_runs(bf16_gguf, [Job(MIXES["Q5_K_S"].file_type)])
    found = plan(bf16_gguf, type="Q5_K_S")
    assert f"{found.bits_per_weight:.2f}" == f"{choice.bits:.2f}"
    assert found.bits_per_weight == 8 * found.tensor_bytes / found.weights


def test_fallbacks_are_counted_and_named(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf", layers=2, hidden=3200, ffn_size=8640, heads=32, kv_heads=32)
    found = plan(path, type="Q4_K_S")
    assert found.fallbacks["blk.0.attn_q.weight"] == "Q4_K"
    assert found.tensors["blk.0.attn_q.weight"] == "Q5_0"
    assert "output.weight" not in found.fallbacks  # Q8_0 there by rule, not by need


def test_tensors_that_need_importance_are_those_that_llama_cpp_asks_for(bf16_gguf: Path) -> None:
    mixes = list(MIXES.values())
    choices = dry_runs(bf16_gguf, [Job(mix.file_type) for mix in mixes])
    for mix, choice in zip(mixes, choices, strict=True):
        assert bool(missing_importance(plan(bf16_gguf, type=mix.name), ())) == choice.needs_imatrix, mix.name


def test_missing_importance_names_the_tensors(bf16_gguf: Path) -> None:
    found = plan(bf16_gguf, type="IQ2_M", imatrix=INFO)
    needing = [name for name, type in found.tensors.items() if type.startswith("IQ2")]
    assert needing
    assert missing_importance(found, ()) == needing
    assert missing_importance(found, needing[1:]) == needing[:1]
    everything = {name: "IQ1_S" if name in found.matrices else type for name, type in found.tensors.items()}
    assert "token_embd.weight" not in missing_importance(replace(found, tensors=everything), ())
    q2 = {name: "Q2_K" if name in found.matrices else type for name, type in found.tensors.items()}
    assert missing_importance(replace(found, tensors=q2, file_type=MIXES["Q2_K"].file_type), ()) == []
    assert missing_importance(replace(found, tensors=q2, file_type=MIXES["Q2_K_S"].file_type), ())


@pytest.mark.parametrize("name", ["Q4_K_M", "Q4_K_L", "IQ3_M", "MP", "MP:fraction=0.5,rest=Q3_K", "BF16"])
def test_a_plan_survives_its_file(name: str, bf16_gguf: Path, f32_gguf: Path, tmp_path: Path) -> None:
    found = plan(bf16_gguf, type=name, imatrix=INFO)
    found.write(tmp_path / "plan.json")
    with gguf.read(bf16_gguf) as source:
        assert read_plan(tmp_path / "plan.json", source) == found
    values = json.loads((tmp_path / "plan.json").read_text())
    assert values["bytes"] == found.bytes
    assert values["bits_per_weight"] == found.bits_per_weight
    assert values["tensors"] == found.tensors
    if name != "BF16":
        with gguf.read(f32_gguf) as source:  # the same model in another float type
            assert read_plan(tmp_path / "plan.json", source).tensors == found.tensors


@pytest.mark.parametrize("name", ["Q4_K_M", "Q3_K_XL", "IQ2_M", "MP", "MP:top=Q8_0,rest=Q2_K"])
def test_llama_cpp_reads_the_tensor_types(name: str, bf16_gguf: Path, tmp_path: Path) -> None:
    found = plan(bf16_gguf, type=name, imatrix=INFO)
    found.write(tmp_path / "plan.json")
    text = (tmp_path / "plan.tensor_types.txt").read_text()
    types = [(line.split("=")[0], line.split("=")[1].upper()) for line in text.split()]
    for base in ("Q8_0", "Q4_0"):  # whatever the mix that they override
        (choice,) = dry_runs(bf16_gguf, [Job(MIXES[base].file_type, imatrix=True, types=types)])
        assert choice.tensors == found.tensors
    again = plan(bf16_gguf, type="Q8_0", tensor_types=tmp_path / "plan.tensor_types.txt")
    assert again.tensors == found.tensors
    assert again.recipe == "Q8_0+tensor-types"


def test_tensor_types_by_hand_do_what_they_do_in_llama_cpp(tmp_path: Path) -> None:
    """A tensor whose type is given is not counted: the first eighth of the down projections starts after it."""
    path = shapes.llama(tmp_path / "m.gguf", layers=32, hidden=256, ffn_size=512, heads=4, kv_heads=2, vocabulary=256)
    types = [("blk\\.[01]\\.ffn_down", "Q8_0"), ("attn_v", "Q6_K"), ("ffn_up", "Q4_0")]
    (choice,) = dry_runs(path, [Job(MIXES["Q4_K_S"].file_type, types=types)])
    (tmp_path / "types.txt").write_text(" ".join(f"{pattern}={type}" for pattern, type in types))
    found = plan(path, type="Q4_K_S", tensor_types=tmp_path / "types.txt")
    assert found.tensors == choice.tensors
    assert found.tensors["blk.5.ffn_down.weight"] == "Q5_K"


def test_a_plan_in_floats_has_no_tensor_types(bf16_gguf: Path, tmp_path: Path) -> None:
    assert plan(bf16_gguf, type="F16").to_tensor_types() == ""
    (tmp_path / "types.txt").write_text("attn_q=q8_0")
    with pytest.raises(PlanError, match=r"quantized type.*F16.*ignores"):
        plan(bf16_gguf, type="F16", tensor_types=tmp_path / "types.txt")


def test_a_plan_of_another_model_is_refused(bf16_gguf: Path, tmp_path: Path) -> None:
    other = shapes.llama(tmp_path / "other.gguf", layers=1, hidden=256, ffn_size=256, heads=4)
    with (
        gguf.read(bf16_gguf) as source,
        pytest.raises(PlanError, match=r"planned, found others\. The plan is for other"),
    ):
        from_json(plan(other, type="Q8_0").to_json(), source)


def test_an_edited_plan_is_sized_again(bf16_gguf: Path) -> None:
    found = plan(bf16_gguf, type="Q4_K_M")
    text = found.to_json().replace('"token_embd.weight": "Q6_K"', '"token_embd.weight": "Q8_0"')
    with gguf.read(bf16_gguf) as source:
        again = from_json(text, source)
        rows = source.tensors["token_embd.weight"].rows
    assert again.tensor_bytes - found.tensor_bytes == rows * (256 // 32 * 34 - 210)
    assert again.bytes - found.bytes == again.tensor_bytes - found.tensor_bytes


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ('"version": 1', '"version": 2', "version: expected 1, found 2"),
        ('"output_norm.weight": "F32"', '"output_norm.weight": "Q4_K"', r"output_norm\.weight.*F32, as it is.*Q4_K"),
        ('"token_embd.weight": "Q6_K"', '"token_embd.weight": "Q6_X"', "tensor type.*Q6_X"),
        ('"token_embd.weight": "Q6_K"', '"token_embd.weight": "I32"', "token_embd.*can have, found I32"),
        ('"token_embd.weight"', '"token_embd"', "tensor token_embd"),
        ('"file_type": 15', '"file_type": 15000', "file_type.*15000"),
        ('"file_type": 15', '"file_type": "15"', "file_type: expected int, found 15"),
        ('"entries": 238', '"entries": "x"', "entries"),
        (r"^\{", "", "JSON"),
        (r"^[^$]*$", "[1]", "JSON object, found list"),
        ('"tensors": \\{', '"tensor": {', "tensors: expected dict"),
    ],
)
def test_a_damaged_plan_is_refused(pattern: str, replacement: str, message: str, bf16_gguf: Path) -> None:
    text = plan(bf16_gguf, type="Q4_K_M", imatrix=INFO).to_json()
    damaged = re.sub(pattern, replacement, text, count=1)
    assert damaged != text
    with gguf.read(bf16_gguf) as source, pytest.raises(PlanError, match=message):
        from_json(damaged, source, path="plan.json")


def test_types_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "m.gguf", layers=1, hidden=96, ffn_size=96, heads=2, kv_heads=2, vocabulary=96)
    found = plan(path, type="Q8_0")
    with gguf.read(path) as source:
        check(source, found.types)
        wrong = replace(found, tensors={**found.tensors, "output.weight": "Q6_K"})
        with pytest.raises(PlanError, match=r"output\.weight.*rows of 96.*Q6_K"):
            check(source, wrong.types)


def test_an_imatrix_changes_the_mix_and_must_be_of_the_model(bf16_gguf: Path, tmp_path: Path) -> None:
    ours = imatrix(tmp_path / "ours.gguf", [f"blk.{layer}.attn_q.weight" for layer in range(6)], 256)
    found = plan(bf16_gguf, type="IQ3_XXS", imatrix=ours)
    assert found.imatrix == ImatrixInfo("ours.gguf", "text.txt", 6, 2)
    assert found.tensors != plan(bf16_gguf, type="IQ3_XXS").tensors
    with pytest.raises(ImatrixError, match=r"blk\.0\.other\.weight"):
        plan(bf16_gguf, type="IQ3_XXS", imatrix=imatrix(tmp_path / "theirs.gguf", ["blk.0.other.weight"], 256))


def test_what_cannot_be_read_or_written_is_said(bf16_gguf: Path, tmp_path: Path) -> None:
    with gguf.read(bf16_gguf) as source, pytest.raises(PlanError, match=r"no\.json"):
        read_plan(tmp_path / "no.json", source)
    with pytest.raises(PlanError, match=r"no\.txt"):
        plan(bf16_gguf, type="Q8_0", tensor_types=tmp_path / "no.txt")
    with pytest.raises(OutputError, match="missing"):
        plan(bf16_gguf, type="Q8_0").write(tmp_path / "missing" / "plan.json")


def test_a_header_without_layers_is_an_error(tmp_path: Path) -> None:
    path = shapes.write(tmp_path / "m.gguf", "llama", {"output.weight": (256, 256)}, {})
    with pytest.raises(PlanError, match=r"llama\.block_count.*whole number"):
        plan(path, type="Q4_K_M")


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="tensors: expected a model with weights"):
        plan(shapes.write(tmp_path / "m.gguf", "llama", {}, {"block_count": 1}), type="F16")


def test_a_header_that_lies_about_layers_is_an_error(tmp_path: Path) -> None:
    text = {"llama.block_count": Value.string("two")}
    path = shapes.write(tmp_path / "m.gguf", "llama", {"output.weight": (256, 256)}, {}, text)
    with pytest.raises(PlanError, match=r"llama\.block_count.*whole number, found two"):
        plan(path, type="Q4_K_M")


def imatrix(path: Path, names: Sequence[str], cols: int) -> Path:
    """A small one, of zeros."""
    metadata = {
        "general.type": Value.string("imatrix"),
        "imatrix.datasets": Value.array(ValueType.STRING, ["text.txt"]),
        "imatrix.chunk_count": Value.u32(2),
        "imatrix.chunk_size": Value.u32(512),
    }
    f32 = TYPES["F32"]
    sizes = (("in_sum2", cols), ("counts", 1))
    specs = [TensorSpec(f"{name}.{suffix}", (size, 1), f32) for name in names for suffix, size in sizes]
    with Writer(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(spec.name, 0, np.zeros((1, spec.row_bytes), np.uint8))
    return path
