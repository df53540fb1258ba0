"""`quantpress plan` by a size: what it prints, writes, says and refuses. On a model of two layers."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from quantpress import quantize
from quantpress.allocation import measure
from quantpress.cli import _keeps
from quantpress.convert import convert
from quantpress.errors import InputError, PlanError, TextError
from quantpress.selftext import write_samples
from tests import checkpoints
from tests.commands import runs

run, fails = partial(runs.run, "plan"), partial(runs.fails, "plan")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    return convert(checkpoints.tiny(folder / "checkpoint"), folder / "tiny-BF16.gguf")


@pytest.fixture
def text(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text((data / "prose.txt").read_text()[:5000])
    return path


def test_a_search_prints_what_it_found_and_writes_it(tiny: Path, text: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "plan.json", tmp_path / "plan.svg"
    files = ("--text", text, "--held-out", text, "--out", out, "--plot", picture)
    shown = run(tiny, "--bpw", "9.0", "--budget", "3", *files).output
    written = json.loads(out.read_text())
    found = written["allocation"]
    assert "no importance matrix" in shown
    assert f"AUTO-9bpw: {written['bytes']:,} bytes" in shown
    assert f"{found['limit']:,} bytes were allowed" in shown
    assert f"{found['probes']} probes" in shown
    assert "99.9 %" in shown
    assert found["reference"] in shown
    kept = "kept" if found["gate"]["passed"] else "whose types are kept, unless"
    assert kept in shown.splitlines()[-1]
    assert written["bytes"] <= found["limit"]
    assert found["reference_bytes"] <= found["limit"]
    assert picture.read_text().count("cell-") >= len(written["tensors"]) // 2
    assert json.loads((tmp_path / "plan.sensitivity.json").read_text())["errors"]
    assert "^blk" in (tmp_path / "plan.tensor_types.txt").read_text()
    [file] = quantize(tiny, plans=[out], out=tmp_path)
    assert (file.name, file.stat().st_size) == ("tiny-AUTO-9bpw.gguf", written["bytes"])


def test_json_is_the_plan_and_its_allocation(tiny: Path) -> None:
    values = json.loads(run(tiny, "--like", "q5_0", "--json", "--quiet").stdout)
    assert {"tensors", "bytes", "bits_per_weight", "allocation"} <= values.keys()
    assert values["recipe"] == "Q5_0_AUTO"
    assert values["bytes"] <= values["allocation"]["limit"] == values["allocation"]["reference_bytes"]
    assert (values["allocation"]["measured"], values["allocation"]["gate"]) == (None, None)


def test_without_text_or_budget_it_says_what_it_did_not_measure(tiny: Path, text: Path) -> None:
    shown = run(tiny, "--size", "200kB").output
    assert "no text to search on: planned from errors alone" in shown
    assert "not measured" in shown.splitlines()[-1]
    assert "no budget for measuring" in run(tiny, "--size", "200kB", "--text", text, "--budget", "0").output
    assert "planned from errors" not in run(tiny, "--size", "200kB", "--quiet").output.splitlines()[0]


def test_without_held_out_text_the_model_writes_it_and_it_is_said(
    tiny: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(engine: Any, path: Path, purpose: str, tokens: int, *rest: Any) -> None:
        assert tokens > 32 * 512
        write_samples(engine, path, purpose, 3 * 512, *rest)

    monkeypatch.setattr(measure, "write_samples", few)
    shown = run(tiny, "--bpw", "6", "--text", text, "--budget", "1").output
    assert "no held-out text: the model writes its own" in shown


def test_fit_counts_the_context_too(tiny: Path) -> None:
    message = fails(PlanError, tiny, "--fit", "100kB", "--context", "512")
    found = re.search(r"more than ([\d,]+) bytes, which a context of 512 tokens takes", message)
    assert found is not None
    memory = int(found[1].replace(",", "")) + 300_000
    limits = []
    for kv in ("f32", "f16"):
        arguments = ("--fit", f"{memory}B", "--context", "512", "--kv", kv, "--json", "--quiet")
        limits.append(json.loads(run(tiny, *arguments).stdout)["allocation"]["limit"])
    assert limits[0] < limits[1]
    assert limits[1] == pytest.approx(300_000, rel=0.5)  # and the header
    assert "the smallest and the largest" in fails(PlanError, tiny, "--fit", f"{memory}B", "--context", "768")
    assert "type of the KV cache" in fails(PlanError, tiny, "--fit", "5MB", "--kv", "q9")


def test_constraints_are_kept_to(tiny: Path) -> None:
    rules = ("--avoid", "legacy,iq", "--avoid", "ffn_down:Q8_0", "--tie", "attn_q+attn_k", "--floor", "token_embd=Q8_0")
    found = json.loads(run(tiny, "--bpw", "10", *rules, "--json", "--quiet").stdout)
    types = found["tensors"]
    assert set(types.values()) <= {"Q8_0", "BF16", "F32"}
    assert types["blk.0.ffn_down.weight"] == "BF16"
    assert types["blk.1.attn_q.weight"] == types["blk.1.attn_k.weight"]


def test_a_recipe_is_planned_as_ever_and_drawn(tiny: Path, tmp_path: Path) -> None:
    assert "Q4_0" in run(tiny, "--type", "Q4_0", "--plot", tmp_path / "plan.svg").output
    assert (tmp_path / "plan.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Give one of --type, --size, --bpw, --like and --fit; found none."),
        ("--type Q8_0 --bpw 4", "found --type and --bpw."),
        ("--size 2MB --like Q8_0 --fit 3MB", "found --size and --like and --fit."),
        ("--type Q8_0 --budget 3", "--budget goes with --size, --bpw, --like and --fit, not with --type."),
        ("--type Q8_0 --held-out a.txt", "--held-out goes with"),
        ("--bpw 4 --tensor-types a.txt", "--tensor-types goes with --type, not with --bpw."),
        ("--bpw 4 --context 100", "--context goes with --fit, not with --bpw."),
        ("--bpw 4 --held-out a.txt", "give it --text to search on"),
        ("--bpw 0", "--bpw"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(arguments: str, message: str, tiny: Path) -> None:
    assert message in run(tiny, *arguments.split(), code=2).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 1kB", "the smallest and the largest that there can be, found 1,000 bytes"),
        ("--size 2GB", "the smallest and the largest that there can be, found 2,000,000,000 bytes"),
        ("--bpw 99", "the smallest and the largest"),
        ("--size 16G", "a number with a unit"),
        ("--like Q9", "expected one of"),
        ("--bpw 6 --avoid iq,q9", "avoid q9: expected one of iq, k, legacy"),
        ("--bpw 6 --floor ffn_down", "expected PATTERN=TYPE"),
        ("--bpw 6 --tie attn_q", "two or more parts"),
        ("--bpw 6 --avoid nothing:Q8_0", "a tensor that can be quantized"),
        ("--bpw 6 --uncovered Q9", "least type of uncovered tensors"),
        ("--bpw 6 --budget 10x", "a time (10m, 90s, 2h) or a number of probes"),
        ("--bpw 6 --encoder none", "none"),
        ("--bpw 6 --effort none", "none"),
    ],
)
def test_what_cannot_be_is_said(arguments: str, message: str, tiny: Path) -> None:
    assert message in fails(InputError, tiny, *arguments.split())


def _bounds(message: str) -> tuple[int, int]:
    found = re.search(r"a file of ([\d,]+) to ([\d,]+) bytes", message)
    assert found is not None, message
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def test_a_size_out_of_reach_names_both_bounds(tiny: Path) -> None:
    message = fails(PlanError, tiny, "--size", "1kB")
    smallest, largest = _bounds(message)
    assert json.loads(run(tiny, "--size", f"{smallest}B", "--json", "--quiet").stdout)["bytes"] == smallest
    assert json.loads(run(tiny, "--size", f"{largest}B", "--json", "--quiet").stdout)["bytes"] == largest
    for size in (smallest - 1, largest + 1):
        assert _bounds(fails(PlanError, tiny, "--size", f"{size}B")) == (smallest, largest)


def test_a_sensitivity_file_of_something_else_is_refused(tiny: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    run(tiny, "--bpw", "6", "--sensitivity", path)
    assert "of another model, imatrix, encoder or version" in fails(
        InputError, tiny, "--bpw", "6", "--sensitivity", path, "--effort", "fast"
    )
    values = json.loads(path.read_text())
    for key, value in {"model": "0" * 64, "version": 99}.items():
        path.write_text(json.dumps(values | {key: value}))
        assert f"{path}: {key}: expected" in fails(InputError, tiny, "--bpw", "6", "--sensitivity", path)
    path.write_text(json.dumps(values)[:-40])
    assert "Give another path" in fails(InputError, tiny, "--bpw", "6", "--sensitivity", path)


def test_text_that_cannot_be_used(tiny: Path, text: Path, tmp_path: Path) -> None:
    assert "readable" in fails(TextError, tiny, "--bpw", "6", "--text", tmp_path / "none.txt")
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert "at least 512 tokens" in fails(TextError, tiny, "--bpw", "6", "--text", short)


@pytest.mark.parametrize(
    ("arguments", "keeps"),
    [("plan M --bpw 4 --out p.json", True), ("plan M --bpw 4 --sensitivity=s.json", True), ("plan M --bpw 4", False)],
)
def test_what_an_interrupted_plan_has_measured_is_kept(arguments: str, keeps: bool) -> None:
    assert _keeps(arguments.split()) is keeps
