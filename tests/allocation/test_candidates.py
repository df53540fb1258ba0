"""Candidates and their sizes: to the byte what the layout, the plan and a written file say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from quantpress.allocation.candidates import (
    CANDIDATES,
    Constraints,
    Group,
    bounds,
    choices,
    fixed_bytes,
)
from quantpress.convert import convert
from quantpress.encoding import ENCODERS
from quantpress.errors import PlanError
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import GGUF, Value, read
from quantpress.metadata import ImatrixInfo
from quantpress.plan import from_types, missing_importance, plan
from quantpress.quantize import quantize
from quantpress.recipes import MIXES
from tests.convert.test_architectures import checkpoint
from tests.oracle import models

INFO = ImatrixInfo("imatrix.gguf", "calibration.txt", 238, 128)
SMALL = {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"}  # blocks of 32
NEED = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}


def assignment(model: GGUF, groups: Iterable[Group], choice: Iterable[int]) -> dict[str, TensorType]:
    """Type of every tensor of the model, in the file's order, for an index into each group's types."""
    chosen = {name: group.types[index] for group, index in zip(groups, choice, strict=True) for name in group.names}
    return {name: chosen.get(name, tensor.type) for name, tensor in model.tensors.items()}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("dense") / "Tiny-BF16.gguf")


@pytest.fixture
def model(dense: Path) -> GGUF:
    with read(dense) as source:
        yield source


def names(groups: list[Group], tensor: str) -> list[str]:
    """The types of the group that has the tensor."""
    (group,) = [group for group in groups if tensor in group.names]
    return [type.name for type in group.types]


def every(model: GGUF) -> set[str]:
    return set(model.tensors)


def assert_sizes(model: GGUF, groups: list[Group], seed: int) -> None:
    draw = np.random.default_rng(seed)
    fixed = fixed_bytes(model, groups, imatrix=INFO, extra={"a": Value.string("b" * seed)})
    for _ in range(4):
        choice = [int(draw.integers(len(group.types))) for group in groups]
        types = assignment(model, groups, choice)
        planned = from_types(
            model, types, recipe="auto", file_type=15, imatrix=INFO, extra={"a": Value.string("b" * seed)}
        )
        chosen = sum(group.nbytes[index] for group, index in zip(groups, choice, strict=True))
        assert fixed + chosen == planned.bytes
        low, high = bounds(groups, fixed)
        assert low <= planned.bytes <= high


@pytest.mark.parametrize(
    "name", ["llama-2", "mixtral", "qwen3-moe", "gpt-oss-mxfp4", "gemma4-e", "deepseek-v2-lite", "qwen3.5", "phi"]
)
def test_sizes_are_those_of_the_plan(name: str, tmp_path: Path) -> None:
    with read(convert(checkpoint(name, tmp_path), tmp_path / "out.gguf")) as source:
        groups = choices(source, covered=every(source))
        assert_sizes(source, groups, len(name))
        grouped = [tensor for group in groups for tensor in group.names]
        matrices = plan(source, type="Q8_0").matrices
        assert grouped == [tensor for tensor in matrices if not source.tensors[tensor].type.trained]


@pytest.mark.parametrize("shapes", [models.DENSE, models.MIXTURE])
def test_sizes_are_those_of_the_file(shapes: models.Shapes, tmp_path: Path) -> None:
    """Rows that only some types divide, experts, and an importance matrix without the embedding."""
    path = models.save(tmp_path / "Tiny-BF16.gguf", shapes)
    imatrix = models.importance(path, tmp_path / "imatrix.gguf", embedding=False)
    with read(path) as source:
        groups = choices(source, covered=imatrix.names)
        fixed = fixed_bytes(source, groups, imatrix=imatrix.info)
        for index in (0, 3, -1):
            choice = [index % len(group.types) for group in groups]
            types = assignment(source, groups, choice)
            one = from_types(source, types, recipe=f"auto{index}", file_type=15, imatrix=imatrix.info)
            assert missing_importance(one, imatrix.names) == []
            (written,) = quantize(path, plans=[one], imatrix=imatrix.path, out=tmp_path / "out")
            chosen = sum(group.nbytes[at] for group, at in zip(groups, choice, strict=True))
            assert written.stat().st_size == fixed + chosen


def test_groups_are_ascending_and_end_with_the_source_s_type(model: GGUF) -> None:
    for group in choices(model, covered=every(model)):
        assert list(group.nbytes) == sorted(group.nbytes)
        assert group.types[-1].name == "BF16"
        assert len(group.types) == len(group.nbytes) == len(set(group.types))


@pytest.mark.parametrize("type", ["F32", "F16"])
def test_no_float_type_but_the_source_s(type: str, tmp_path: Path) -> None:
    with read(models.save(tmp_path / "m.gguf", type=type)) as source:
        found = names(choices(source, covered=every(source)), "blk.0.attn_q.weight")
    assert [name for name in found if name in ("F16", "BF16", "F32")] == [type]
    assert set(found) == {candidate.name for candidate in CANDIDATES} | {type}


def test_a_quantized_source_offers_only_what_is_smaller(dense: Path, tmp_path: Path) -> None:
    (path,) = quantize(dense, types=["Q4_0"], out=tmp_path)
    with read(path) as source:
        found = names(choices(source, covered=every(source)), "blk.0.attn_q.weight")
    assert found[-1] == "Q4_0"
    assert "IQ4_XS" in found
    assert not {"Q4_K", "IQ4_NL", "Q8_0"} & set(found)


def test_only_types_whose_blocks_divide_the_rows(model: GGUF) -> None:
    groups = choices(model, covered=every(model))
    assert set(names(groups, "blk.1.ffn_down.weight")) == {*SMALL, "BF16"}  # rows of 96
    assert names(groups, "blk.0.attn_output.weight") == ["BF16"]  # of 80


def test_tensors_in_a_type_they_were_trained_in_keep_it(tmp_path: Path) -> None:
    with read(convert(checkpoint("gpt-oss-mxfp4", tmp_path), tmp_path / "out.gguf")) as source:
        groups = choices(source, covered=every(source))
        trained = {name for name, tensor in source.tensors.items() if tensor.type.name == "MXFP4"}
        assert trained
        assert not trained & {name for group in groups for name in group.names}
        types = assignment(source, groups, [0] * len(groups))
        assert {types[name].name for name in trained} == {"MXFP4"}


def test_without_an_imatrix_no_type_needs_one(model: GGUF) -> None:
    groups = choices(model, covered=None)
    assert not NEED & {type.name for group in groups for type in group.types}
    assert names(groups, "blk.0.attn_q.weight")[0] == "Q2_K"
    types = assignment(model, groups, [0] * len(groups))
    assert missing_importance(from_types(model, types, recipe="a", file_type=15), ()) == []


def test_what_the_imatrix_does_not_cover_has_a_floor(model: GGUF) -> None:
    groups = choices(model, covered={"blk.0.attn_q.weight"})
    assert set(names(groups, "blk.0.attn_q.weight")) >= NEED
    assert set(names(groups, "token_embd.weight")) >= NEED
    assert set(names(groups, "output.weight")) >= {*NEED, "Q2_K"}
    bare = names(groups, "blk.0.ffn_up.weight")
    assert not {*NEED, "Q2_K", "Q3_K", "IQ3_S", "IQ4_XS"} & set(bare)
    assert {"Q4_K", "Q4_0", "IQ4_NL"} <= set(bare)
    lower = choices(model, covered=set(), constraints=Constraints(uncovered="q2_k"))
    assert names(lower, "blk.0.ffn_up.weight")[0] == "Q2_K"


def test_ggml_cannot_encode_some_types_without_importance(model: GGUF) -> None:
    groups = choices(model, covered=set(), encoder="ggml")
    lost = {type.name for type in CANDIDATES if ENCODERS["ggml"].requires_importance(type)}
    assert lost
    assert NEED - set(names(groups, "token_embd.weight")) == lost
    with pytest.raises(PlanError, match="encoder: expected one of quantpress, ggml, found other"):
        choices(model, covered=None, encoder="other")


def test_avoided_types_and_families(model: GGUF) -> None:
    limits = Constraints.parse(avoid="iq, q2_k ,ffn_down:Legacy,blk.1.*:q6_K")
    groups = choices(model, covered=every(model), constraints=limits)
    found = names(groups, "blk.0.attn_q.weight")
    assert found == ["Q3_K", "Q4_K", "Q4_0", "Q4_1", "Q5_K", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "BF16"]
    assert names(groups, "blk.0.ffn_down.weight") == ["Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16"]
    assert names(groups, "blk.1.ffn_down.weight") == ["Q8_0", "BF16"]
    assert "Q6_K" not in names(groups, "blk.1.attn_q.weight")


def test_floors(model: GGUF) -> None:
    limits = Constraints.parse(floors="output=Q6_K,blk.?.attn_v.weight=q8_0,token_embd=F32,attn_v=Q4_K")
    groups = choices(model, covered=every(model), constraints=limits)
    assert names(groups, "output.weight") == ["Q6_K", "Q8_0", "BF16"]
    assert names(groups, "blk.1.attn_v.weight") == ["Q8_0", "BF16"]
    assert names(groups, "token_embd.weight") == ["BF16"]  # the source's is always enough
    (free,) = {tuple(names(choices(model, covered=every(model)), "blk.0.attn_q.weight"))}
    assert tuple(names(groups, "blk.0.attn_q.weight")) == free


def test_tied_tensors_share_a_type_within_a_layer(model: GGUF) -> None:
    limits = Constraints.parse(ties="attn_q+attn_k+attn_v,token_embd+output")
    groups = choices(model, covered=every(model), constraints=limits)
    tied = [group.names for group in groups if len(group.names) > 1]
    assert tied == [
        ("token_embd.weight", "output.weight"),
        ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"),
        ("blk.1.attn_q.weight", "blk.1.attn_v.weight"),
    ]
    assert_sizes(model, groups, 1)
    shared = Constraints(ties=(("ffn_down", "attn_q"),))
    assert set(names(choices(model, covered=every(model), constraints=shared), "blk.1.attn_q.weight")) == {
        *SMALL,
        "BF16",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"avoid": "Q9_K"}, "avoid Q9_K: expected one of iq, k, legacy, Q2_K, .*IQ4_XS, F16, BF16, F32, found Q9_K"),
        ({"avoid": "ffn_down:MXFP4"}, "avoid ffn_down:MXFP4: expected one of iq, .*, found MXFP4"),
        ({"avoid": ":iq"}, "avoid :iq: expected TYPE or PATTERN:TYPE"),
        ({"floors": "token_embd"}, "floor token_embd: expected PATTERN=TYPE"),
        ({"floors": "token_embd=iq"}, "floor token_embd=iq: expected one of Q2_K, .*, found iq"),
        ({"ties": "attn_q"}, "ties: expected two or more"),
        ({"ties": "attn_q+attn_k,attn_k+attn_v"}, "ties: .*each part in one"),
        ({"uncovered": "Q4"}, "least type of uncovered tensors: expected one of Q2_K"),
    ],
)
def test_constraints_that_say_nothing_known(given: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Constraints.parse(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"avoid": "ffn_donw:iq"}, "avoid ffn_donw:iq"),
        ({"avoid": "down:iq"}, "avoid down:iq"),
        ({"floors": "blk.7.*=Q4_K"}, r"floor blk\.7\.\*=Q4_K"),
        ({"floors": "output_norm=Q4_K"}, "floor output_norm=Q4_K"),
        ({"ties": "attn_q+attn_qkv"}, r"tie attn_q\+attn_qkv: attn_qkv"),
    ],
)
def test_patterns_without_a_tensor(given: dict[str, str], message: str, model: GGUF) -> None:
    with pytest.raises(PlanError, match=f"Tiny-BF16.gguf: {message}: expected .*attn_k, .*token_embd, found no match"):
        choices(model, covered=None, constraints=Constraints.parse(**given))


def test_constraints_that_leave_nothing(model: GGUF) -> None:
    message = "tensor blk.0.attn_output.weight: expected a type that the constraints leave, found .*none"
    with pytest.raises(PlanError, match=re.escape(message).replace(r"\.\*", ".*")):
        choices(model, covered=None, constraints=Constraints(avoid=("BF16",)))


def test_another_alignment_is_refused(model: GGUF) -> None:
    groups = choices(model, covered=None)
    with pytest.raises(PlanError, match=r"general\.alignment: expected the source's, 32, found 64"):
        fixed_bytes(model, groups, extra={"general.alignment": Value.u32(64)})


def test_candidates_are_types_that_mixes_use() -> None:
    """All of stock llama.cpp's mixes but those for trained types can be reached."""
    bases = {MIXES[name].base for name in MIXES} & {type.name for type in TYPES.values() if type.quantized}
    trained = {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"}
    assert bases - trained <= {type.name for type in CANDIDATES}
    assert not trained & {type.name for type in CANDIDATES}
