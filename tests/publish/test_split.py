"""Releases with files that are larger than `--split-size`: split in the folder first, then checked and sent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantpress import gguf, measured, resplit
from quantpress.check import check
from quantpress.cli import app
from quantpress.engine import Engine
from quantpress.errors import InputError, PlanError
from quantpress.memory import Footprint
from quantpress.publish import publish
from quantpress.release import release
from tests import checkpoints
from tests.hub_uploads import UploadHub
from tests.publish.releases import CHECK, ID, Notes, refuses, sent

LIMIT = 245_000  # bytes: Q8_0 is larger, Q4_0 is not
PARTS = [f"tiny-Q8_0/tiny-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    text = folder / "text.txt"
    text.write_text((data / "prose.txt").read_text()[:8000])
    given = {"calibration": [text], "evaluation": [text], "context": 64, "evaluation_chunks": 2, "bench": False}
    with pytest.MonkeyPatch.context() as patch:  # what a file takes of the memory takes seconds
        patch.setattr(measured, "footprint", lambda file, **how: Footprint(1, 1, 1, 1, 1, "F16"))
        source = checkpoints.tiny(folder / "tiny")
        release(source, out=folder / "release", variants=("Q8_0", "Q4_0"), repository=ID, **given)
    return folder / "release"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "release")


@pytest.fixture(autouse=True)
def gate(login: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at everything, and loads the files."""
    monkeypatch.setattr(CHECK, "check", check)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def complete(folder: Path, hub: UploadHub) -> bool:
    """Whether the Hub has the parts, what release.json vouches for, and no more."""
    listed = json.loads((folder / "release.json").read_text())["files"]
    names = {name for name in listed if not name.startswith("work/")} | {"release.json"}
    there = files(hub.folder_of_main)
    there.pop(".gitattributes", None)
    return set(PARTS) < names and there == {name: (folder / name).read_bytes() for name in names}


def test_it_is_split_then_sent(folder: Path, hub: UploadHub) -> None:
    notes = Notes()
    with gguf.read(folder / "tiny-Q8_0.gguf") as model:
        tensors = {name: model.data(name).tobytes() for name in model.tensors}
    found = publish(folder, split_bytes=LIMIT, progress=notes)
    assert "tiny-Q8_0.gguf: copied into 2 of at most 245.00 kB" in str(notes)
    assert complete(folder, hub)
    assert not (folder / "tiny-Q8_0.gguf").exists()
    assert set(PARTS) < set(sent(found))
    with gguf.read(hub.folder_of_main / PARTS[0]) as model:
        assert {name: model.data(name).tobytes() for name in model.tensors} == tensors
    with Engine(hub.folder_of_main / PARTS[0]) as engine:
        assert engine.info.vocab
    for page in ("README.md", "README.zh.md", "report.html"):
        text = (hub.folder_of_main / page).read_text(encoding="utf-8")
        assert "tiny-Q8_0/" in text
        assert "tiny-Q8_0.gguf" not in text
    assert sent(publish(folder, split_bytes=LIMIT)) == []


def test_a_dry_run_says_so_and_splits_nothing(folder: Path, hub: UploadHub) -> None:
    before = files(folder)
    shown = CliRunner().invoke(app, ["publish", str(folder), "--dry-run", "--split-size", "245kB"]).output
    assert "tiny-Q8_0.gguf would be split in parts of at most 245.00 kB first" in shown
    assert "tiny-Q4_0.gguf would" not in shown
    assert files(folder) == before
    assert not hub.exists


def test_nothing_is_split_that_cannot_be_sent(
    folder: Path, hub: UploadHub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(PlanError, "a tensor cannot be split", do=lambda: publish(folder, split_bytes=120_000))
    monkeypatch.delenv("HF_TOKEN")
    refuses(InputError, "token", do=lambda: publish(folder, split_bytes=LIMIT))
    assert files(folder) == files(made)
    assert not hub.answers


def test_interrupted_while_splitting_it_goes_on(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resplit, "write_pages", stop)
        with pytest.raises(KeyboardInterrupt):
            publish(folder, split_bytes=LIMIT)
    assert not hub.answers
    publish(folder)  # of whatever size
    assert complete(folder, hub)
