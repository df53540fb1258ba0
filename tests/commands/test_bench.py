"""`quantpress bench`: what it prints, writes and refuses. On a model of two layers; nothing is timed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from quantpress import quantize
from quantpress.convert import convert
from quantpress.errors import GGUFError, InputError, OutputError
from tests import checkpoints
from tests.commands import runs

run, fails = partial(runs.run, "bench"), partial(runs.fails, "bench")
SHORT = ("-n", "2", "-r", "2", "--threads", "1", "--quiet", "--no-repack")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bench")
    base = convert(checkpoints.tiny(folder / "checkpoint"), folder / "tiny-BF16.gguf")
    return [base, *quantize(base, types=["Q4_0"], out=folder)]


def test_a_line_a_test_and_the_machine(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "results.json"
    lines = run(*files, "-p", "4,8", *SHORT, "--out", out).stdout.splitlines()
    assert lines[0].split() == ["file", "test", "tokens/s", "of", "Q4_0", "repacked"]
    assert [line.split()[:2] for line in lines[1:7]] == [
        [str(file), test] for file in files for test in ("pp4", "pp8", "tg2")
    ]
    written = json.loads(out.read_text())
    assert list(out.parent.iterdir()) == [out]
    assert set(written["files"]) == set(map(str, files))
    mean = written["files"][str(files[0])]["tests"][1]["mean"]
    assert f" {mean:.2f} " in lines[2]
    assert f"{written['percent'][str(files[0])]['pp8']:.1f} %" in lines[2]
    assert "100.0 %" in lines[5]
    assert lines[1].split()[-1] == "no"
    assert "1 threads" in lines[7]
    assert written["machine"]["cpu"] in lines[7]


def test_json_is_what_is_written(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    shown = json.loads(run(files[0], "-p", "4", *SHORT, "--json", "--out", out).stdout)
    assert shown == json.loads(out.read_text())
    assert "percent" not in shown


def test_an_empty_list_means_no_such_test(files: list[Path]) -> None:
    shown = json.loads(run(files[0], "-p", "", *SHORT, "--json").stdout)
    assert [test["test"] for test in shown["files"][str(files[0])]["tests"]] == ["tg2"]


def test_refused_before_anything_is_run(files: list[Path], tmp_path: Path) -> None:
    assert "prompt: expected 1 to" in fails(InputError, files[0], "-p", "0")
    assert "generation: expected 1 to" in fails(InputError, files[0], "-n", "128,-1")
    assert "repeats: expected at least 1, found 0" in fails(InputError, files[0], "-r", "0")
    assert "--prompt: expected numbers of tokens, such as 512,1024, found '8,x'" in fails(
        InputError, files[0], "-p", "8,x"
    )
    assert "--generate: expected numbers" in fails(InputError, files[0], "-n", "8,,16")
    assert "missing.gguf" in fails(GGUFError, files[0], tmp_path / "missing.gguf")
    run(code=2)


def test_no_place_for_the_results_is_said_first(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "the folder cannot be made" in fails(OutputError, files[0], "--out", tmp_path / "file" / "results.json")
