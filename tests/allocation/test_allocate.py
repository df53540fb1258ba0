"""All of it on tiny models: what is planned against the file that `quantize` writes and what `evaluate` says of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress import gguf, sensitivity
from quantpress.allocation import Allocation, Constraints, Spend, allocate
from quantpress.convert import convert
from quantpress.encoding import tile_errors
from quantpress.errors import InputError, PlanError, TextError
from quantpress.evaluate import evaluate
from quantpress.plan import plan, read_plan
from quantpress.progress import Progress
from quantpress.quantize import quantize
from tests.checkpoints import tiny
from tests.imatrix import moe
from tests.oracle import models

MODULE = sys.modules["quantpress.allocation.allocate"]  # the package has a function of that name
WIDER = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "query_pre_attn_scalar": 64}
NEED = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
KINDS = ["dense", "mixture"]

FEW_WEIGHTS = 1 << 14


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of errors: they need not be good here."""
    monkeypatch.setattr(sensitivity, "SAMPLE", FEW_WEIGHTS)


class Notes(Progress):
    """Keeps them."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


class Case:
    """A model, its importance matrix, two texts, and a search with six probes."""

    def __init__(self, model: Path, folder: Path, prose: str) -> None:
        self.model, self.imatrix = model, folder / "imatrix.gguf"
        models.importance(model, self.imatrix)
        self.text, self.held_out = folder / "search.txt", folder / "gate.txt"
        self.text.write_text(prose[:12000])
        self.held_out.write_text(prose[12000:])
        self.searched = self.allocate("4.3bpw", text=self.text, held_out=self.held_out)

    def allocate(self, target: str, **how: Any) -> Allocation:
        given: dict[str, Any] = {"imatrix": self.imatrix, "budget": Spend(probes=6), "effort": "fast"}
        given |= {"search_chunks": 1, "gate_chunks": 2, "threads": 2}
        return allocate(self.model, target, **(given | how))

    def write(self, found: Allocation, out: Path, *types: str) -> dict[int, Path]:
        """The plan's file and the recipes', by size."""
        given: dict[str, Any] = {"imatrix": self.imatrix, "effort": "fast", "threads": 2}
        files = quantize(self.model, out=out, types=types, plans=[found.plan], **given)
        return {file.stat().st_size: file for file in files}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Case]:
    prose = (data / "prose.txt").read_text(encoding="utf-8")
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    made = {"dense": convert(tiny(folders["dense"] / "tiny", WIDER), folders["dense"] / "Tiny-BF16.gguf")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "HIDDEN", 256)
        patch.setattr(moe, "FFN", 256)
        patch.setattr(moe, "EXPERTS", 4)
        made["mixture"] = moe.write_moe(folders["mixture"] / "moe.gguf")
        patch.setattr(sensitivity, "SAMPLE", FEW_WEIGHTS)
        return {kind: Case(made[kind], folders[kind], prose) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_s_numbers_are_those_of_the_files(cases: dict[str, Case], kind: str, tmp_path: Path) -> None:
    """And the planned bytes those of the file."""
    case, found = cases[kind], cases[kind].searched
    assert found.gate is not None
    assert found.reference is not None
    assert found.gate.passed
    assert found.probes == 6
    sizes = case.write(found, tmp_path, found.reference)
    ours, theirs = sizes[found.plan.bytes], sizes[found.reference_bytes]
    assert found.plan.bytes <= found.limit
    assert found.plan.bits_per_weight <= 4.3
    expected = evaluate(case.model, [ours, theirs], text=case.held_out, chunks=2, threads=2)
    assert replace(found.gate.plan, file=str(ours)) == expected[0]
    assert replace(found.gate.reference, file=str(theirs)) == expected[1]
    assert found.gate.text == "gate.txt"
    on_search = evaluate(case.model, ours, text=case.text, chunks=1, threads=2)[0]
    assert found.measured == on_search.kld_mean


@pytest.mark.parametrize("kind", KINDS)
def test_from_errors_alone(cases: dict[str, Case], kind: str, tmp_path: Path) -> None:
    notes = Notes()
    found = cases[kind].allocate("like:Q4_K_M", progress=notes)
    assert (found.measured, found.probes, found.gate) == (None, 0, None)
    assert any("no text to search on: planned from errors alone" in note for note in notes.said)
    with gguf.read(cases[kind].model) as source:
        stock = plan(source, type="Q4_K_M", imatrix=cases[kind].imatrix)
    assert (found.reference, found.reference_bytes, found.limit) == ("Q4_K_M", stock.bytes, stock.bytes)
    assert list(cases[kind].write(found, tmp_path)) == [found.plan.bytes]
    assert found.plan.bytes <= stock.bytes
    assert found.plan.file_type == stock.file_type


def test_nothing_to_spend_is_from_errors_alone(cases: dict[str, Case]) -> None:
    notes, case = Notes(), cases["mixture"]
    found = case.allocate("5bpw", text=case.text, budget=Spend(probes=0), progress=notes)
    assert found.gate is None
    assert any("no budget for measuring" in note for note in notes.said)
    assert found.plan.tensors == case.allocate("5bpw").plan.tensors


def test_a_plan_that_loses_gives_way_to_its_reference(cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst of all choices, as if the search had found it."""
    case, notes = cases["mixture"], Notes()
    real = MODULE.search

    def worst(problem: Any, *rest: Any, **how: Any) -> Any:
        found = real(problem, *rest, **how)
        return [replace(found[-1], choice=tuple(0 for _ in problem.groups))]

    monkeypatch.setattr(MODULE, "search", worst)
    given = {"text": case.text, "held_out": case.held_out, "budget": Spend(probes=1), "progress": notes}
    found = case.allocate("like:Q4_K_M", **given)
    assert found.gate is not None
    assert found.gate.reference is not None
    assert not found.gate.passed
    assert found.gate.plan.kld_mean > found.gate.reference.kld_mean
    with gguf.read(case.model) as source:
        stock = plan(source, type="Q4_K_M", imatrix=case.imatrix)
    assert found.plan.tensors == stock.tensors
    assert any("is no better than Q4_K_M on held-out text: the types of Q4_K_M are kept" in note for note in notes.said)


@pytest.mark.parametrize("ties", ["", "attn_q+attn_k+attn_v"])
def test_a_reference_that_breaks_a_tie_is_not_kept(cases: dict[str, Case], ties: str) -> None:
    """Q4_K_M gives some values more bits than queries and keys."""
    limits, target = Constraints.parse(ties=ties), MODULE.parse_target("like:Q4_K_M")
    with gguf.read(cases["dense"].model) as source:
        found = MODULE._frame(source, target, None, limits, (), "quantpress")
        assert found.allows(found.reference) == (not ties)


def test_like_a_mix_that_needs_importance_that_there_is_not(cases: dict[str, Case]) -> None:
    notes = Notes()
    found = cases["dense"].allocate("like:IQ2_M", imatrix=None, effort="normal", progress=notes)
    assert found.reference is None
    assert "IQ2_M needs importance that there is not: the plan is compared with nothing" in notes.said


@pytest.mark.parametrize("name", ["text", "held_out"])
def test_text_that_is_not_there_is_told_before_any_work(cases: dict[str, Case], name: str, tmp_path: Path) -> None:
    case, file = cases["dense"], tmp_path / "sensitivity.json"
    with pytest.raises(TextError, match=r"none\.txt: text: expected a readable file"):
        case.allocate("5bpw", **{"text": case.text, name: tmp_path / "none.txt"}, sensitivity=file)
    assert not file.exists()


def test_held_out_text_that_is_too_short_is_told_before_the_search(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    monkeypatch.setattr(MODULE, "_searched", lambda *_: pytest.fail("searched"))
    with pytest.raises(TextError, match=r"short\.txt: text: expected at least 512 tokens"):
        cases["dense"].allocate("5bpw", text=cases["dense"].text, held_out=tmp_path / "short.txt")


def test_without_held_out_text_the_model_writes_it(cases: dict[str, Case]) -> None:
    case, notes = cases["mixture"], Notes()
    found = case.allocate("5bpw", text=case.text, budget=Spend(probes=1), gate_chunks=1, progress=notes)
    assert found.gate is not None
    assert found.gate.text == "held-out.txt"
    assert "no held-out text: the model writes its own" in notes.said


@pytest.mark.parametrize("encoder", ["quantpress", "ggml"])
def test_without_an_importance_matrix(cases: dict[str, Case], encoder: str) -> None:
    notes = Notes()
    found = cases["mixture"].allocate("3bpw", imatrix=None, encoder=encoder, effort="normal", progress=notes)
    assert not NEED & set(found.plan.tensors.values())
    assert found.plan.imatrix is None
    assert any("no importance matrix: types that need one are left out" in note for note in notes.said)
    assert NEED & set(cases["mixture"].allocate("2bpw").plan.tensors.values())


def test_constraints_hold(cases: dict[str, Case]) -> None:
    limits = Constraints.parse(avoid="iq", floors="output=Q6_K", ties="attn_q+attn_k+attn_v")
    found = cases["mixture"].allocate("4.5bpw", constraints=limits).plan
    assert not any(type.startswith("IQ") for type in found.tensors.values())
    assert found.types["output.weight"].bits_per_weight >= 6.5
    for layer in range(2):
        assert len({found.tensors[f"blk.{layer}.attn_{part}.weight"] for part in "qkv"}) == 1


@pytest.mark.parametrize("target", ["1kB", "2GB", "0.5bpw", "40bpw"])
def test_a_size_out_of_reach_names_both_bounds(cases: dict[str, Case], target: str) -> None:
    with pytest.raises(PlanError, match=rf"{target}: expected a file of [\d,]+ to [\d,]+ bytes.*found -?[\d,]+ bytes"):
        cases["dense"].allocate(target)


def test_a_sensitivity_file(cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the errors, and is not taken for another model, matrix, encoder or effort."""
    file, case, calls = tmp_path / "sensitivity.json", cases["mixture"], []
    monkeypatch.setattr(sensitivity, "tile_errors", lambda *given: calls.append(given) or tile_errors(*given))
    first = case.allocate("4bpw", sensitivity=file)
    assert calls
    calls.clear()
    assert case.allocate("4bpw", sensitivity=file) == first
    assert not calls
    for how, field in (({"effort": "normal"}, "effort"), ({"imatrix": None}, "imatrix")):
        with pytest.raises(
            InputError, match=f"sensitivity.json: {field}: expected .*, found .*another model"
        ) as caught:
            case.allocate("4bpw", sensitivity=file, **how)
        assert caught.value.field == field
    with pytest.raises(InputError, match=r"sensitivity.json: model: expected"):
        cases["dense"].allocate("5bpw", sensitivity=file)


def test_the_plan_as_a_file(cases: dict[str, Case], tmp_path: Path) -> None:
    case, found = cases["dense"], cases["dense"].searched
    found.write(tmp_path / "plan.json")
    with gguf.read(case.model) as source:
        assert read_plan(tmp_path / "plan.json", source) == found.plan
    about = json.loads((tmp_path / "plan.json").read_text())["allocation"]
    assert about["limit"] == found.limit
    assert about["gate"]["passed"] is True
    assert about["gate"]["plan"]["kld_mean"] < about["gate"]["reference"]["kld_mean"]
    lines = (tmp_path / "plan.tensor_types.txt").read_text().splitlines()
    assert len(lines) == len(found.plan.matrices)
