"""What a later run keeps, and what it must not: with two windows of given text, so that each run takes seconds."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantpress import gguf, quantize
from quantpress.errors import DiskFullError, InputError, OutputError, TextError
from quantpress.files import file_digest
from quantpress.release import release
from tests.release.test_release import Journal


@pytest.fixture
def text(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text((data / "prose.txt").read_text()[:4000])
    return path


def run(source: Path, out: Path, text: Path, **settings: Any) -> list[str]:
    """The steps that did something."""
    journal = Journal()
    given: dict[str, Any] = {"calibration": [text], "evaluation": [text]}
    options = {"variants": ("Q8_0",), "bench": False, "threads": 1, **given, **settings}
    release(source, out=out, **options, progress=journal)
    return [task.split()[0] for task in journal.tasks]


def listing(out: Path, group: str = "files") -> set[str]:
    return {name for name in json.loads((out / "release.json").read_text())[group] if name.endswith(".gguf")}


def test_text_that_changed_in_place_is_seen(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    (tmp_path / "b").mkdir()
    twin = shutil.copy(text, tmp_path / "b" / "text.txt")
    both = {"calibration": [text, Path(twin)]}
    assert run(bf16_gguf, tmp_path / "out", text, **both) == ["imatrix", "quantize", "evaluate", "evaluate"]
    assert run(bf16_gguf, tmp_path / "out", text, **both) == []
    Path(twin).write_text(text.read_text()[1000:])
    assert "imatrix" in run(bf16_gguf, tmp_path / "out", text, **both)
    both["calibration"].reverse()
    assert "imatrix" in run(bf16_gguf, tmp_path / "out", text, **both)


def test_every_part_of_a_split_source_counts(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    [source] = quantize(bf16_gguf, types=["BF16"], out=tmp_path / "split", split_bytes=6_000_000)
    run(source, tmp_path / "out", text)
    assert run(source, tmp_path / "out", text) == []
    with gguf.read(source) as file:
        last = list(file.tensors.values())[-2]
        part = file.paths[last.part]
    data = bytearray(part.read_bytes())
    data[last.offset] ^= 1
    part.write_bytes(data)
    assert run(source, tmp_path / "out", text) == ["imatrix", "quantize", "evaluate", "evaluate"]


def test_the_texts_are_part_of_the_release_unless_told_otherwise(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    out, second = tmp_path / "out", tmp_path / "second.txt"
    second.write_bytes(text.read_bytes() + b"More.")
    run(bf16_gguf, out, text, calibration=[text, second])
    files = json.loads((out / "release.json").read_text())["files"]
    for name, source in (("calibration-1.txt", text), ("calibration-2.txt", second), ("evaluation.txt", text)):
        assert files[name]["sha256"] == file_digest(source)
    texts = json.loads((out / "release.json").read_text())["texts"]
    assert texts["calibration"]["files"] == ["calibration-1.txt", "calibration-2.txt"]
    copies = [out / name for name in texts["calibration"]["files"]]
    run(bf16_gguf, out, text, calibration=copies)  # as who repeats it may do, in the same folder
    assert [file_digest(copy) for copy in copies] == [file_digest(text), file_digest(second)]
    run(bf16_gguf, tmp_path / "private", text, texts=False)
    private = json.loads((tmp_path / "private" / "release.json").read_text())
    assert private["texts"]["calibration"] == {
        "by_model": False,
        "sha256": [[text.name, file_digest(text)]],
        "files": [],
    }
    assert not list((tmp_path / "private").glob("*.txt"))


def test_speeds_are_measured_once_and_only_if_wanted(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    assert run(bf16_gguf, out, text)[-1] == "evaluate"
    assert set(run(bf16_gguf, out, text, bench=True)) == {"benchmark"}  # twice, if repacked weights kill llama.cpp
    results = json.loads((out / "results.json").read_text())
    assert results["machine"]["threads"] == 1
    assert [test["test"] for test in results["variants"]["Q8_0"]["speed"]["tests"]] == ["pp512", "tg128"]
    assert (out / "plots/speed.png").exists()
    assert run(bf16_gguf, out, text, bench=True) == []
    assert "benchmark" in run(bf16_gguf, out, text, bench=True, threads=2)  # another machine: not to be compared
    assert run(bf16_gguf, out, text) == []
    assert "speed" not in json.loads((out / "results.json").read_text())["variants"]["Q8_0"]


def test_variants_may_come_and_go(demo: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    run(demo, out, text, variants=("Q8_0", "Q4_0"))
    assert run(demo, out, text, variants=("BF16", "Q8_0")) == []
    assert listing(out) == {"demo-gemma3-BF16.gguf", "demo-gemma3-Q8_0.gguf", "demo-gemma3-imatrix.gguf"}
    assert "demo-gemma3-Q4_0.gguf" in listing(out, "unlisted")
    assert run(demo, out, text, variants=("Q4_0", "Q8_0")) == []
    assert "demo-gemma3-Q4_0.gguf" in listing(out)
    assert not (out / "demo-gemma3-BF16.gguf").exists()  # no variant: it waits in the work folder


def test_split_files_are_measured_described_and_kept(demo: Path, tmp_path: Path, text: Path) -> None:
    settings: dict[str, Any] = {"variants": ("BF16", "Q8_0"), "split_bytes": 5_000_000}
    run(demo, tmp_path / "out", text, **settings)
    row = json.loads((tmp_path / "out/results.json").read_text())["variants"]["Q8_0"]
    assert row["split"]
    assert row["file"] == "demo-gemma3-Q8_0/demo-gemma3-Q8_0-00001-of-00002.gguf"
    assert (tmp_path / "out/demo-gemma3-BF16/demo-gemma3-BF16-00001-of-00003.gguf").exists()
    assert run(demo, tmp_path / "out", text, **settings) == []
    (tmp_path / "out" / row["file"].replace("00001", "00002", 1)).unlink()
    assert run(demo, tmp_path / "out", text, **settings) == ["quantize"]


def test_a_source_inside_the_folder_however_it_is_spelled(
    bf16_gguf: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    source = shutil.copy(bf16_gguf, tmp_path / "out" / "demo-gemma3-BF16.gguf")
    monkeypatch.chdir(tmp_path)
    run(Path(source), Path("out"), text)
    assert run(Path("out/demo-gemma3-BF16.gguf"), tmp_path / "out", text) == []


def test_damaged_books_vouch_for_nothing(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("release.json", "results.json"):
        (out / name).write_text('{"files": [], "base": null, "variants": 1}')
    assert run(bf16_gguf, out, text) == ["imatrix", "quantize", "evaluate", "evaluate"]


def test_what_a_killed_run_left_is_removed(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    (out / "work" / "quantpress-scratch").mkdir(parents=True)
    (out / "demo-gemma3-Q8_0").mkdir()
    for name in (".demo-gemma3-IQ2_M.gguf.partial", "demo-gemma3-Q8_0/.demo-gemma3-Q8_0-00001-of-00002.gguf.partial"):
        (out / name).touch()
    (out / ".somebody-elses.partial").touch()
    run(bf16_gguf, out, text)
    left = {path.name for path in out.rglob("*") if "partial" in path.name or "scratch" in path.name}
    assert left == {".somebody-elses.partial"}


def test_one_run_at_a_time(bf16_gguf: Path, tmp_path: Path, text: Path) -> None:
    (tmp_path / "out" / "work").mkdir(parents=True)
    lock = os.open(tmp_path / "out" / "work", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="another run is at work"):
        run(bf16_gguf, tmp_path / "out", text)
    os.close(lock)


def test_what_can_be_wrong_is_found_before_any_work(
    bf16_gguf: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [quantized] = quantize(bf16_gguf, types=["Q8_0"], out=tmp_path)
    with pytest.raises(InputError, match="expected a float type, found Q8_0"):
        run(quantized, tmp_path / "out", text)
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(TextError, match="at least 512 tokens"):
        run(bf16_gguf, tmp_path / "out", text, evaluation=[short])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(DiskFullError, match=r"7,2.* bytes needed, 5,000 free"):
        run(bf16_gguf, tmp_path / "out", text)
    assert not list((tmp_path / "out").glob("*.gguf"))
