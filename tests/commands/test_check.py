"""`quantpress check`: what it prints, and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from quantpress.cli import app
from quantpress.errors import InputError
from tests.check import small


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_a_sound_release(made: Path) -> None:
    found = run(made, "--fast", "--quiet", "--checkpoint", made.parent / "tiny")
    assert found.exit_code == 0, found.output
    *notes, counts = found.stdout.splitlines()
    assert all(line.startswith("note: ") for line in notes)
    assert counts == f"0 errors, 0 warnings, {len(notes)} notes"


def test_errors_come_first_and_decide_the_exit_code(folder: Path) -> None:
    (folder / "x.partial").touch()
    found, listed = run(folder, "--fast", "--quiet"), run(folder, "--fast", "--quiet", "--json")
    assert (found.exit_code, listed.exit_code) == (2, 2)
    assert found.stdout.startswith("error: x.partial: half-written. Wait for what writes it")
    assert "1 error, 0 warnings" in found.stdout
    first = json.loads(listed.stdout)[0]
    assert {key: first[key] for key in ("severity", "file", "what")} == {
        "severity": "error", "file": "x.partial", "what": "half-written",
    }  # fmt: skip
    assert first["hint"]


def test_what_is_no_release(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert isinstance(found.exception, InputError)
    assert "release.json: file: expected a JSON object, found none. Give the folder" in str(found.exception)
