"""`quantpress check`: what it prints, and how it ends."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from quantpress.errors import InputError
from tests.check import small
from tests.commands import runs

run, fails = partial(runs.run, "check"), partial(runs.fails, "check")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


def test_a_sound_release(made: Path) -> None:
    found = run(made, "--fast", "--quiet", "--checkpoint", made.parent / "tiny")
    *notes, counts = found.stdout.splitlines()
    assert all(line.startswith("note: ") for line in notes)
    assert counts == f"0 errors, 0 warnings, {len(notes)} notes"


def test_errors_come_first_and_decide_the_exit_code(folder: Path) -> None:
    (folder / "x.partial").touch()
    found, listed = (run(folder, "--fast", "--quiet", *more, code=2) for more in ([], ["--json"]))
    assert found.stdout.startswith("error: x.partial: half-written. Wait for what writes it")
    assert "1 error, 0 warnings" in found.stdout
    first = json.loads(listed.stdout)[0]
    assert {key: first[key] for key in ("severity", "file", "what")} == {
        "severity": "error", "file": "x.partial", "what": "half-written",
    }  # fmt: skip
    assert first["hint"]


def test_what_is_no_release(tmp_path: Path) -> None:
    message = fails(InputError, tmp_path)
    assert "release.json: file: expected a JSON object, found none. Give the folder" in message
