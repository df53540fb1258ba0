"""A release whose files are split afterwards: the bytes, numbers and pages of one that was split from the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpress import measured, resplit
from quantpress.check import Finding, check
from quantpress.errors import DiskFullError, InputError, PlanError
from quantpress.ledger import Ledger
from quantpress.measured import renew
from quantpress.memory import Footprint
from quantpress.release import release
from tests.release.test_release import Journal

LIMIT = 420_000  # bytes
PAGES = ("README.md", "README.zh.md", "report.html")
BF16 = [f"tiny-BF16/tiny-BF16-0000{number}-of-00002.gguf" for number in (1, 2)]
Q8_0 = [f"tiny-Q8_0/tiny-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]


@pytest.fixture(autouse=True, scope="module")
def footprints() -> Iterator[None]:
    """What a file takes of the memory has tests of its own, and takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "footprint", lambda file, **how: Footprint(1, 1, 1, 1, 1, "F16"))
        yield


class Told(Journal):
    """What was worked on, and what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def run(source: Path, out: Path, **settings: Any) -> list[str]:
    """A release of little text; returns the steps that did something."""
    journal, text = Journal(), source.parent / "text.txt"
    given: dict[str, Any] = {"calibration": [text], "evaluation": [text], "context": 64, "evaluation_chunks": 2}
    given |= {"variants": ("BF16", "Q8_0", "Q4_0", "MP"), "repository": "acme/tiny-GGUF", "base_model": "acme/tiny"}
    release(source, out=out, progress=journal, bench=False, threads=1, **{**given, **settings})
    return [task.split()[0] for task in journal.tasks]


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that was split from the start."""
    out = tmp_path_factory.mktemp("split") / "release"
    run(source, out, split_bytes=LIMIT)
    return out


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was not."""
    out = tmp_path_factory.mktemp("whole") / "release"
    run(source, out)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


def published(folder: Path) -> dict[str, bytes]:
    """The models and pages by their names."""
    files = [*folder.rglob("*.gguf"), *(folder / page for page in PAGES)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["variants"]
    return found


def wrong(folder: Path, *, fast: bool) -> list[Finding]:
    """What `check` finds, but for the label that MP has not."""
    found = check(folder, fast=fast)
    return [one for one in found if one.severity != "note" and "quantization label" not in one.what]


def left(folder: Path) -> list[str]:
    """What is half-written, or under way."""
    mark = "splitting" in json.loads((folder / "release.json").read_text())
    return [*map(str, folder.rglob("*.partial")), *["splitting"] * mark]


def test_the_release_that_would_have_been_made(folder: Path, expected: Path) -> None:
    assert resplit.too_large(folder, LIMIT) == ["tiny-BF16.gguf", "tiny-Q8_0.gguf"]
    resplit.resplit(folder, LIMIT)
    assert {*BF16, *Q8_0, "tiny-Q4_0.gguf", "tiny-MP.gguf"} < published(folder).keys()
    assert published(folder) == published(expected)
    assert rows(folder) == rows(expected)
    assert json.loads((folder / "results.json").read_text())["base"]["file"] == Path(BF16[0]).name
    assert left(folder) == []


def test_it_passes_the_check_and_loads_in_llama_cpp(folder: Path) -> None:
    resplit.resplit(folder, LIMIT)
    assert wrong(folder, fast=False) == []


def test_pictures_are_those_of_the_new_sizes(folder: Path, expected: Path) -> None:
    resplit.resplit(folder, LIMIT)
    for path in sorted((expected / "plots").glob("*.svg")):
        assert (folder / "plots" / path.name).read_bytes() == path.read_bytes(), path.name


def test_once_is_enough(folder: Path) -> None:
    resplit.resplit(folder, LIMIT)
    before, journal = (folder / "release.json").read_bytes(), Told()
    resplit.resplit(folder, LIMIT, progress=journal)
    resplit.resplit(folder, 10**9, progress=journal)
    assert ((folder / "release.json").read_bytes(), journal.tasks, journal.notes) == (before, [], [])


def test_smaller_still(folder: Path, made: Path, tmp_path: Path) -> None:
    for limit in (LIMIT, 360_000):
        resplit.resplit(folder, limit)
    at_once = shutil.copytree(made, tmp_path / "at-once")
    resplit.resplit(at_once, 360_000)
    assert published(folder) == published(at_once)
    assert rows(folder) == rows(at_once)


def test_release_splits_and_joins_without_quantizing(folder: Path, made: Path, expected: Path, source: Path) -> None:
    """Nor measuring, although the float model is in other files."""
    for limit, same in ((LIMIT, expected), (10**9, made)):
        assert run(source, folder, split_bytes=limit) == ["split", "split"]
        assert published(folder).keys() == published(same).keys()
        assert all(published(folder)[name] == data for name, data in published(same).items() if name not in PAGES)
        assert rows(folder) == rows(same)


def test_release_keeps_what_was_split(
    folder: Path, source: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no space for what is there."""
    resplit.resplit(folder, LIMIT)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
        assert run(source, folder, split_bytes=LIMIT) == []
    assert published(folder) == published(expected)


def test_it_is_told_with_the_space_that_it_takes(folder: Path) -> None:
    journal = Told()
    resplit.resplit(folder, LIMIT, progress=journal)
    assert [task.split()[0] for task in journal.tasks] == ["split", "split"]
    assert "tiny-BF16.gguf: copied into 2 of at most 420.00 kB" in journal.notes[0]
    assert "of disk are needed for it" in journal.notes[0]


class Stop(BaseException):
    """As if the machine had been switched off."""


POINTS = {
    "all parts are there": (Ledger, "replace", False),
    "release.json names them": (Ledger, "replace", True),
    "results.json too": (resplit, "_renew_results", True),
    "no page is made": (resplit, "write_pages", False),
    "the pages are made": (resplit, "write_pages", True),
}


@pytest.mark.parametrize("point", POINTS)
def test_interrupted_it_goes_on(point: str, folder: Path, expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, after = POINTS[point]
    done = getattr(owner, name)

    def stop(*arguments: Any, **more: Any) -> None:
        if after:
            done(*arguments, **more)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(Stop):
            resplit.resplit(folder, LIMIT)
    resplit.resplit(folder, LIMIT)
    assert published(folder) == published(expected)
    assert rows(folder) == rows(expected)
    assert left(folder) == []
    assert wrong(folder, fast=True) == []


def unchanged(folder: Path, made: Path) -> bool:
    return published(folder) == published(made) and rows(folder) == rows(made) and not left(folder)


def test_too_little_space(folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(DiskFullError, match="bytes needed"):
        resplit.resplit(folder, LIMIT)
    assert unchanged(folder, made)


def test_a_tensor_that_is_larger(folder: Path, made: Path) -> None:
    with pytest.raises(PlanError, match="a tensor cannot be split"):
        resplit.resplit(folder, 50_000)
    assert unchanged(folder, made)


def test_a_file_that_is_not_what_was_measured(folder: Path) -> None:
    path = folder / "tiny-BF16.gguf"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"tiny-BF16\.gguf: SHA-256: expected the bytes that were measured"):
        resplit.resplit(folder, LIMIT)
    assert path.read_bytes() == data


def test_without_the_float_model(folder: Path, made: Path) -> None:
    release_json = json.loads((folder / "release.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    results["base"]["file"] = "elsewhere.gguf"
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match=r"the float model.*--split-gb"):
        resplit.resplit(folder, LIMIT)
    assert json.loads((folder / "release.json").read_text()) == release_json
    assert (folder / "tiny-Q8_0.gguf").exists()


@pytest.mark.parametrize("lacking", ["base_model", "settings"])
def test_books_of_another_version(lacking: str, folder: Path) -> None:
    facts = json.loads((folder / "release.json").read_text())
    if lacking == "settings":
        del facts["settings"]["bench"]
    else:
        del facts[lacking]
    (folder / "release.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"release\.json: facts: expected what this version"):
        resplit.resplit(folder, LIMIT)
    assert (folder / "tiny-Q8_0.gguf").exists()


def test_a_page_that_was_edited_is_kept(folder: Path, expected: Path) -> None:
    page = folder / "README.zh.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\nMine.\n", encoding="utf-8")
    edited, journal = page.read_bytes(), Told()
    resplit.resplit(folder, LIMIT, progress=journal)
    [copy] = (folder / "work").glob("edited-*-README.zh.md")
    assert copy.read_bytes() == edited
    assert any("README.zh.md was edited" in note for note in journal.notes)
    assert page.read_bytes() == (expected / "README.zh.md").read_bytes()


def test_speeds_are_still_those_of_the_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "release.json")
    for name in ("m.gguf", "m-1.gguf", "m-2.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    whole, *parts = (tmp_path / name for name in ("m.gguf", "m-1.gguf", "m-2.gguf"))
    ledger.record([whole], "made")
    row: dict[str, Any] = {"sha256": [ledger.sha256(whole)], "kld_mean": 0.1}
    row["speed"] = {"protocol": measured._timing(row, "this machine")}
    other = {"sha256": ["0" * 64], "speed": {"protocol": "other"}}
    ledger.replace([whole], parts)
    for one, machine in ((row, "this machine"), (other, "this machine")):
        renew(one, parts, ledger, machine)
    assert row["sha256"] == [ledger.sha256(part) for part in parts]
    assert (row["file"], row["split"], row["bytes"]) == ("m-1.gguf", True, 16)
    assert measured._is_timed(row, "this machine")
    assert other == {"sha256": ["0" * 64], "speed": {"protocol": "other"}}
