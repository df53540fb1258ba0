"""A release on a disk for a file or two: the same files and numbers, on the Hub, and what an interruption keeps."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from quantpress import measured, stream
from quantpress.check import check
from quantpress.errors import DiskFullError, InputError
from quantpress.memory import Footprint
from quantpress.progress import Progress
from quantpress.release import release
from tests.hub_server import sha256
from tests.hub_uploads import UploadHub, log_in, uploads

ID = "acme/tiny-GGUF"
VARIANTS = ("BF16", "Q8_0", "Q5_1", "Q4_0")
PARTS = [f"tiny-Q8_0/tiny-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
SENT = [*PARTS, "tiny-Q5_1.gguf", "tiny-Q4_0.gguf"]
SPARE = 2_000_000  # bytes: the tiny model's files are smaller than what real ones leave for pages
BASE = 780_000  # bytes of the float model
SCRATCH = 507_904 + 8_000  # bytes of the predictions on two windows of 64 tokens, and the importance matrix
ROOM = SCRATCH + 760_000  # bytes beside what is spared: for the largest file alone, or for the two others


class Stop(BaseException):
    """As if the machine had been switched off."""


@dataclass
class Watch(Progress):
    """What was done and told, and how much the folder grew since the forecast; stops at a note that begins so."""

    folder: Path
    stop: str | None = None
    tasks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: int | None = None
    grown: int = 0

    def task(self, label: str, total: int, unit: str = "") -> Any:
        self._look()
        self.tasks.append(label)
        return super().task(label, total, unit)

    def note(self, text: str) -> None:
        self._look()
        self.notes.append(text)
        if text.startswith("disk: "):
            self.before = size(self.folder) - size(self.folder / "work")  # where a hole stands for the float model
        if self.stop and text.startswith(self.stop):
            raise Stop

    def _look(self) -> None:
        if self.before is not None:
            self.grown = max(self.grown, size(self.folder) - self.before)

    @property
    def forecast(self) -> tuple[int, int, int]:
        """Bytes, files and rounds."""
        [found] = [note for note in self.notes if note.startswith("disk: ")]
        parts = re.fullmatch(r"disk: at its peak ([\d,]+) bytes .*; files to send: (\d+), rounds: (\d+)", found)
        assert parts
        peak, files, rounds = (int(part.replace(",", "")) for part in parts.groups())
        return peak, files, rounds

    def count(self, word: str) -> int:
        """Of tasks of a kind."""
        return sum(task.split()[0] == word for task in self.tasks)


def size(folder: Path) -> int:
    """Of all files, half-written ones included."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def models(folder: Path) -> set[str]:
    """The names of the files, but for the float model's parts and the importance matrix."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
    return {file for file in files if not re.search("BF16|imatrix", file)}


def run(source: Path, out: Path, *, stop: str | None = None, **settings: Any) -> Watch:
    """A release of little text; returns what was seen, stopped or not."""
    watch, text = Watch(out, stop), source.parent / "text.txt"
    given: dict[str, Any] = {"calibration": [text], "evaluation": [text], "context": 64, "evaluation_chunks": 2}
    given |= {"variants": VARIANTS, "repository": ID, "bench": False, "threads": 1, "split_bytes": 420_000}
    try:
        release(source, out=out, progress=watch, **{**given, **settings})
        assert stop is None
    except Stop:
        pass
    return watch


@pytest.fixture(autouse=True, scope="module")
def footprints() -> Iterator[None]:
    """What a file takes of the memory has tests of its own, and takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            measured, "footprint", lambda file, **how: Footprint(Path(file).stat().st_size, 1, 1, 1, 1, "F16")
        )
        yield


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release as it is without streaming."""
    out = tmp_path_factory.mktemp("plain") / "release"
    run(source, out)
    return out


def disk_for(folder: Path, room: int, patch: pytest.MonkeyPatch) -> None:
    """From now on the disk takes the float model, what is spared and `room` bytes: of models and scratch space."""

    def usage(path: Path) -> Any:
        there = [file for file in folder.rglob("*.gguf") if "work" not in file.relative_to(folder).parts]
        free = SPARE + BASE + room - sum(file.stat().st_size for file in there)
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)

    patch.setattr(shutil, "disk_usage", usage)


@dataclass
class Streamed:
    """A release that was stopped when its second file was about to be sent, and the run that finished it."""

    folder: Path
    hub: UploadHub
    first: Watch
    left: set[str]  # models in the folder after the first
    second: Watch


@pytest.fixture(scope="module")
def streamed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamed]:
    home = tmp_path_factory.mktemp("streamed")
    with pytest.MonkeyPatch.context() as patch:
        close_session()
        log_in(home / "home", patch)
        patch.setattr(stream, "SPARE", SPARE)
        folder = home / "release"
        disk_for(folder, ROOM, patch)
        with uploads(ID, home / "hub", patch) as hub:
            first = run(source, folder, stream=True, private=True, stop=f"send {SENT[2]}")
            left = models(folder)
            yield Streamed(folder, hub, first, left, run(source, folder, stream=True))
        close_session()


def test_what_is_on_the_hub_is_what_a_plain_release_has(plain: Path, streamed: Streamed) -> None:
    folder = streamed.hub.folder_of_main
    assert models(plain) == models(folder) == set(SENT)
    for file in (*plain.rglob("*.gguf"), plain / "results.json", plain / "README.md", plain / "README.zh.md"):
        assert (folder / file.relative_to(plain)).read_bytes() == file.read_bytes(), file.name
    assert streamed.hub.private


def test_the_page_comes_last(streamed: Streamed) -> None:
    order = [name for names in streamed.hub.committed for name in names]
    assert order[:4] == SENT
    assert order[-1] == "README.md"


def test_one_or_two_files_at_a_time_as_was_forecast(streamed: Streamed) -> None:
    for watch, files, rounds in ((streamed.first, 3, 2), (streamed.second, 2, 1)):
        peak, *found = watch.forecast
        assert found == [files, rounds]
        assert watch.grown <= peak
    assert streamed.first.grown > streamed.first.forecast[0] - SPARE  # with texts and pages: the models are all of it
    assert models(streamed.folder) == set()
    assert not (streamed.folder / PARTS[0]).parent.exists()


def test_it_goes_on_after_an_interruption(streamed: Streamed) -> None:
    assert streamed.left == set(SENT[2:])
    assert (streamed.first.count("quantize"), streamed.second.count("quantize")) == (2, 0)


def test_the_folder_passes_the_check(plain: Path, streamed: Streamed) -> None:
    found = check(streamed.folder, fast=True)
    assert {finding.severity for finding in found} == {"note"}
    assert any("4 files" in finding.what and "on the Hub only" in finding.what for finding in found)


def test_nothing_is_left_to_do(source: Path, streamed: Streamed) -> None:
    commits = len(streamed.hub.committed)
    again = run(source, streamed.folder, stream=True)
    assert not again.count("quantize") + again.count("evaluate") + again.count("memory")
    assert len(streamed.hub.committed) == commits
    assert again.forecast[1:] == (0, 0)


def test_what_was_replaced_there_or_never_measured_is_made_again(source: Path, streamed: Streamed) -> None:
    there, results = streamed.hub.folder_of_main / "tiny-Q5_1.gguf", streamed.folder / "results.json"
    expected, commits = sha256(there), len(streamed.hub.committed)
    there.write_bytes(b"another")
    streamed.hub.renew()
    known = json.loads(results.read_text())
    del known["variants"]["Q4_0"]
    results.write_text(json.dumps(known))
    again = run(source, streamed.folder, stream=True)
    assert any("not there any more as it was sent" in note and there.name in note for note in again.notes)
    assert any(note.startswith("Q4_0: on the Hub, but not measured") for note in again.notes)
    assert (again.count("quantize"), again.count("evaluate")) == (1, 2)  # the float model, and Q4_0
    sent = [name for names in streamed.hub.committed[commits:] for name in names]
    assert set(SENT) & set(sent) == {there.name}  # Q4_0 has the same bytes
    assert sha256(there) == expected
    assert models(streamed.folder) == set()


def test_without_streaming_the_folder_is_whole(source: Path, streamed: Streamed, plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(streamed.folder, tmp_path / "release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
        again = run(source, folder)
    assert any("this one does not stream" in note and SENT[0] in note for note in again.notes)
    for name in SENT:
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    assert "remote" not in (folder / "release.json").read_text()


def test_a_disk_that_is_too_small(source: Path, streamed: Streamed, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk_for(tmp_path / "out", 50_000, patch)
        with pytest.raises(DiskFullError, match=r"[\d,]+ bytes needed, 2,830,000 free"):
            run(source, tmp_path / "out", stream=True)
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_what_is_refused_before_any_work(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--repository user/name"):
        run(source, tmp_path / "out", stream=True, repository=None)
    with pytest.raises(InputError, match="private: expected stream"):
        run(source, tmp_path / "out", private=True)
    log_in(tmp_path / "home", monkeypatch)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="token: expected one that may write, found none"):
        run(source, tmp_path / "out", stream=True)
    assert not (tmp_path / "out").exists()
