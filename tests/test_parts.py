"""A model's files in other parts: the bytes that the converter writes, and the books that know them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.errors import DiskFullError, PlanError
from quantpress.ledger import Ledger
from quantpress.parts import in_parts, whole
from quantpress.progress import SILENT
from tests import checkpoints

LIMIT = 360_000  # bytes: two parts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.tiny(tmp_path_factory.mktemp("parts") / "tiny")


@pytest.fixture
def ledger(checkpoint: Path, tmp_path: Path) -> Ledger:
    """Of a folder with the model in one file."""
    (tmp_path / "release").mkdir()
    found = Ledger(tmp_path / "release" / "release.json")
    found.record([convert(checkpoint, found.folder / "tiny-BF16.gguf")], "made")
    return found


def models(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.gguf")}


def test_where_the_whole_would_be() -> None:
    assert whole(Path("r/m-3.98bpw.gguf")) == Path("r/m-3.98bpw.gguf")
    assert whole(Path("r/m-3.98bpw/m-3.98bpw-00001-of-00002.gguf")) == Path("r/m-3.98bpw.gguf")


def test_split_and_joined(checkpoint: Path, ledger: Ledger, tmp_path: Path) -> None:
    once = models(ledger.folder)
    [file] = ledger.kept("made")
    hashes = [ledger.sha256(file)]
    parts = in_parts([file], LIMIT, ledger, SILENT)
    (tmp_path / "split").mkdir()
    convert(checkpoint, tmp_path / "split" / "tiny-BF16.gguf", split_bytes=LIMIT)
    assert models(ledger.folder) == models(tmp_path / "split")
    assert len(parts) == 2
    assert Ledger(ledger.path).kept("made") == list(parts)
    assert (ledger.earlier(parts[0]), ledger.origin(parts)) == ([hashes], tuple(hashes))
    assert in_parts(parts, LIMIT, ledger, SILENT) == parts
    with Engine(parts[0], vocab_only=False) as engine:
        assert engine.info.vocab
    assert in_parts(parts, 10**9, ledger, SILENT) == (file,)
    assert models(ledger.folder) == once
    assert not parts[0].parent.exists()
    assert (len(ledger.earlier(file)), ledger.origin([file])) == (2, tuple(hashes))


def test_refused_before_anything_is_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    once, files = models(ledger.folder), ledger.kept("made")
    with pytest.raises(PlanError, match=r"split size.*a tensor cannot be split"):
        in_parts(files, 50_000, ledger, SILENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(DiskFullError):
        in_parts(files, LIMIT, ledger, SILENT)
    assert models(ledger.folder) == once
    assert ledger.kept("made") == files
