"""Interrupted runs, and runs that cannot be."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import GGUFError, InputError, OutputError, TextError
from quantpress.imatrix import imatrix, partial_path
from quantpress.progress import Advance, Progress
from tests.imatrix.moe import write_moe

SETTINGS: dict[str, Any] = {"context": 128, "chunks": 40, "every": 1, "threads": 1}  # three batches of 16, 16 and 8


class Listener(Progress):
    """Remembers what it is told, and presses Ctrl-C once `stop_at` chunks are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.done, self.stop_at, self.notes = 0, stop_at, list[str]()

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Advance]:
        def advance(amount: int) -> None:
            self.done += amount
            if self.stop_at is not None and self.done >= self.stop_at:
                signal.raise_signal(signal.SIGINT)

        self.total = total
        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def whole(moe: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "i.gguf"
    progress = Listener()
    imatrix(moe, text=[prose], out=out, progress=progress, **SETTINGS)
    assert (progress.done, progress.total, progress.notes) == (40, 40, [])
    assert [path.name for path in out.parent.iterdir()] == ["i.gguf"]
    return out.read_bytes()


def interrupted(moe: Path, prose: Path, out: Path, stop_at: int = 20) -> None:
    with pytest.raises(KeyboardInterrupt):
        imatrix(moe, text=[prose], out=out, progress=Listener(stop_at), **SETTINGS)
    assert [path.name for path in out.parent.iterdir()] == [partial_path(out).name]


def test_goes_on_after_ctrl_c_and_ends_with_the_same_bytes(
    moe: Path, prose: Path, whole: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "i.gguf"
    interrupted(moe, prose, out)
    progress = Listener()
    imatrix(moe, text=[prose], out=out, progress=progress, **SETTINGS)
    assert out.read_bytes() == whole
    assert progress.notes == [f"{partial_path(out)}: going on after 32 chunks"]
    assert progress.done == 40
    assert [path.name for path in tmp_path.iterdir()] == ["i.gguf"]


def test_the_number_of_threads_does_not_matter(moe: Path, prose: Path, whole: bytes, tmp_path: Path) -> None:
    out = imatrix(moe, text=[prose], out=tmp_path / "i.gguf", **SETTINGS | {"threads": 2})
    assert out.read_bytes() == whole


@pytest.mark.parametrize("change", ["process_output", "chunks", "text", "model"])
def test_another_job_starts_again(change: str, moe: Path, prose: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "i.gguf"
    out.parent.mkdir()
    interrupted(moe, prose, out)
    other = tmp_path / "other.txt"
    other.write_text(prose.read_text(encoding="utf-8").replace("the", "a"), encoding="utf-8")
    model = write_moe(tmp_path / "other.gguf", seed=5) if change == "model" else moe
    changed = {"process_output": False, "chunks": 39}
    settings = SETTINGS | {key: value for key, value in changed.items() if key == change}
    progress = Listener()
    imatrix(model, text=[other if change == "text" else prose], out=out, progress=progress, **settings)
    assert progress.notes == [f"{partial_path(out)}: made from another model, text or settings: starting again"]
    assert progress.done == settings["chunks"]


def test_a_damaged_partial_file_starts_again(moe: Path, prose: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    partial_path(out).write_bytes(b"GGUF" + bytes(100))
    progress = Listener()
    imatrix(moe, text=[prose], out=out, progress=progress, **SETTINGS)
    assert out.read_bytes() == whole
    assert len(progress.notes) == 1
    assert progress.notes[0].endswith("starting again")


def test_resume_can_be_refused(moe: Path, prose: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    interrupted(moe, prose, out)
    progress = Listener()
    imatrix(moe, text=[prose], out=out, progress=progress, resume=False, **SETTINGS)
    assert progress.notes == []
    assert out.read_bytes() == whole


def test_a_text_too_short(moe: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(TextError, match=r"short\.txt: text: expected at least 512 tokens"):
        imatrix(moe, text=[short], out=tmp_path / "i.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_a_context_too_short(moe: Path, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context: expected at least 16 tokens, found 15"):
        imatrix(moe, text=[prose], out=tmp_path / "i.gguf", context=15)


def test_a_context_beyond_the_models(moe: Path, prose: Path, tmp_path: Path) -> None:
    for context, notes in ((512, []), (513, ["moe.gguf was trained on 512 tokens: beyond them it extrapolates"])):
        progress = Listener()
        imatrix(moe, text=prose, out=tmp_path / "i.gguf", context=context, chunks=1, progress=progress)
        assert progress.notes == notes


def test_no_threads(moe: Path, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threads: expected at least 1, found 0"):
        imatrix(moe, text=prose, out=tmp_path / "i.gguf", threads=0)


def test_nowhere_to_write(moe: Path, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before a model is opened: there is none here."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    for out, expected in (
        (tmp_path / "missing" / "i.gguf", f"{tmp_path / 'missing'} is missing: make it first"),
        (tmp_path / "file" / "i.gguf", f"{tmp_path / 'file'} is no folder"),
        (tmp_path, "expected the name of a file, found a folder"),
        (tmp_path / "i.gguf", f"no permission to write into {tmp_path}"),
    ):
        with pytest.raises(OutputError, match=re.escape(f"{out}: {expected}")):
            imatrix(tmp_path / "none.gguf", text=[prose], out=out)


def test_no_model(moe: Path, reference: Path, prose: Path, tmp_path: Path) -> None:
    """What is wrong is said by our reader: llama.cpp is not even asked."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(moe.read_bytes()[:5000])
    for model, error, expected in (
        (tmp_path / "missing.gguf", GGUFError, "missing.gguf: file: expected a readable file"),
        (broken, GGUFError, "broken.gguf: .*truncated"),
        (prose, GGUFError, "prose.txt: magic.*no GGUF file"),
        (reference / "moe.gguf", InputError, "general.architecture: .*found a GGUF file of type imatrix.*the model's"),
    ):
        with pytest.raises(error, match=expected):
            imatrix(model, text=[prose], out=tmp_path / "i.gguf")
