"""Speeds: their arithmetic and form, what is refused, and a llama.cpp that dies of repacked weights. None is timed."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import quantize
from quantpress.benchmark import Benchmark, Speed, benchmark, machine, percentages, speeds, throughput
from quantpress.children import python_command
from quantpress.convert import convert
from quantpress.engine import Hardware, hardware, supervisor
from quantpress.errors import CrashError, EngineError, GGUFError, InputError
from quantpress.progress import Progress
from tests import checkpoints
from tests.convert.test_architectures import checkpoint

module = importlib.import_module("quantpress.benchmark")  # the package has a function of the name

DYING = """
import os, signal
from quantpress.engine import worker
load = worker.Session
def dying(settings):
    if {condition}:
        os.kill(os.getpid(), signal.SIGSEGV)
    return load(settings)
worker.Session = dying
worker.main()
"""


class Recorder(Progress):
    """Keeps the notes, and of each task the label, the total and what was done."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tasks: list[list[Any]] = []

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Any]:
        self.tasks.append([label, total, 0])

        def advance(amount: int) -> None:
            self.tasks[-1][2] += amount

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a model of two layers: BF16, Q8_0 and Q4_0."""
    folder = tmp_path_factory.mktemp("benchmark")
    base = convert(checkpoints.tiny(folder / "checkpoint"), folder / "tiny-BF16.gguf")
    return [base, *quantize(base, types=["Q8_0", "Q4_0"], out=folder)]


def dies(monkeypatch: pytest.MonkeyPatch, condition: str, *layouts: str) -> None:
    """A llama.cpp whose CPU has these layouts, and that dies as it loads a model where the condition holds."""
    found = Hardware("a processor", (), ("AVX2",), layouts)
    monkeypatch.setattr(module, "hardware", lambda: found)
    monkeypatch.setattr(supervisor, "_COMMAND", python_command(DYING.format(condition=condition)))


def test_mean_and_sample_deviation() -> None:
    seconds = [0.5, 0.4, 0.625]
    found = throughput("pp", 512, seconds)
    rates = 512 / np.array(seconds)
    assert (found.test, found.tokens, found.repeats) == ("pp512", 512, 3)
    assert found.mean == pytest.approx(rates.mean(), rel=1e-12)  # of the speeds, not the speed of the mean time
    assert found.deviation == pytest.approx(rates.std(ddof=1), rel=1e-12)


def test_a_single_run_shows_no_deviation() -> None:
    assert throughput("tg", 10, [2.0]) == module.Throughput("tg10", 10, 5.0, 0.0, 1)


def test_percentages_are_of_the_same_test() -> None:
    reference = {"tests": [{"test": "pp512", "mean": 200.0}, {"test": "tg128", "mean": 8.0}]}
    speed = {"tests": [{"test": "tg128", "mean": 10.0}, {"test": "tg256", "mean": 9.0}]}
    assert percentages(speed, reference) == {"tg128": 125.0}


def test_the_form_of_a_benchmark(files: list[Path]) -> None:
    seen = Recorder()
    found = benchmark(files, prompts=[8, 20], generations=[4], repeats=2, threads=1, repack=False, progress=seen)
    assert seen.tasks == [[f"benchmark {file.name}", 6, 6] for file in files]
    assert seen.notes == []
    written = json.loads(json.dumps(found.to_dict()))
    assert written["machine"] == machine(1, 0)
    assert list(written["files"]) == list(map(str, files))
    for speed in written["files"].values():
        assert {key: speed[key] for key in ("repacked", "layouts")} == {"repacked": False, "layouts": []}
        assert [(test["test"], test["tokens"], test["repeats"]) for test in speed["tests"]] == [
            ("pp8", 8, 2),
            ("pp20", 20, 2),
            ("tg4", 4, 2),
        ]
        assert all(test["mean"] > 0 and math.isfinite(test["deviation"]) for test in speed["tests"])
    assert written["reference"] == str(files[2])
    assert written["percent"][str(files[2])] == {"pp8": 100.0, "pp20": 100.0, "tg4": 100.0}
    means = [written["files"][str(file)]["tests"][0]["mean"] for file in (files[0], files[2])]
    assert written["percent"][str(files[0])]["pp8"] == pytest.approx(100 * means[0] / means[1])


def test_no_reference_no_percentages(files: list[Path]) -> None:
    found = benchmark(files[1], prompts=[4], generations=[], repeats=1, repack=False)
    assert found.reference is None
    assert found.percentages(found.speeds[0]) == {}
    assert set(found.to_dict()) == {"machine", "files"}


def test_what_is_given_twice_is_measured_once(files: list[Path]) -> None:
    found = benchmark([files[0], str(files[0])], prompts=[4, 4], generations=[2], repeats=1, repack=False)
    assert [[test.test for test in speed.tests] for speed in found.speeds] == [["pp4", "tg2"]]


def test_repacking_is_what_happened(files: list[Path]) -> None:
    """On the machine as it is, whatever its llama.cpp does or dies of."""
    found = list(speeds(files, prompts=[40], generations=[2], repeats=1))
    assert found[0].to_dict()["repacked"] == bool(found[0].layouts)
    assert all(set(speed.layouts) <= set(hardware().layouts) for speed in found)


def test_machine() -> None:
    found = machine(3, -1)
    assert set(found) == {"cpu", "threads", "backend", "features", "gpu_layers"}
    assert (found["threads"], found["gpu_layers"]) == (3, -1)
    assert found["backend"] == (", ".join(hardware().gpus) or "CPU")
    assert machine(None, 0)["threads"] >= 1


def test_a_crash_gives_up_the_layouts_one_by_one(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, "'BAD' in settings.layouts or 'WORSE' in settings.layouts", "WORSE", "BAD", "CPU_REPACK")
    seen = Recorder()
    found = list(speeds(files[:2], prompts=[4], generations=[2], repeats=1, progress=seen))
    assert len(seen.notes) == 2  # and none for the second file
    assert f"{files[0]}: llama.cpp's process was killed by SIGSEGV when" in seen.notes[0]
    assert (
        "repacked as WORSE or BAD or CPU_REPACK: from here on they are repacked as BAD or CPU_REPACK at most"
        in (seen.notes[0])
    )
    assert "they are repacked as CPU_REPACK at most" in seen.notes[1]
    assert [set(speed.layouts) <= {"CPU_REPACK"} for speed in found] == [True, True]
    assert [len(speed.tests) for speed in found] == [2, 2]


def test_a_crash_of_the_last_layout_leaves_none(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, "settings.layouts", "BAD")
    seen = Recorder()
    (found,) = speeds(files[2], prompts=[4], generations=[], repeats=1, progress=seen)
    assert found.to_dict()["repacked"] is False
    assert [note.rpartition(": ")[2] for note in seen.notes] == ["from here on they are not repacked"]


def test_a_crash_of_another_cause_is_an_error(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, "True", "GOOD")
    seen = Recorder()
    with pytest.raises(CrashError, match=r"tiny-Q4_0\.gguf: llama\.cpp's process was killed by SIGSEGV"):
        list(speeds(files[2], prompts=[4], generations=[], repeats=1, progress=seen))
    assert len(seen.notes) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": [0]}, "prompt: expected 1 to 16,777,216 tokens, found 0"),
        ({"prompts": [512, (1 << 24) + 1]}, "prompt: expected 1 to 16,777,216 tokens, found 16,777,217"),
        ({"generations": [-1]}, "generation: expected 1 to 16,777,216 tokens, found -1"),
        ({"prompts": [], "generations": []}, "tests: expected at least one length of a prompt or a generation"),
        ({"repeats": 0}, "repeats: expected at least 1, found 0"),
        ({"threads": 0}, "threads: expected at least 1, found 0"),
    ],
)
def test_unusable_settings(files: list[Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(files, **settings)


def test_all_files_are_looked_at_before_the_first_is_measured(files: list[Path], tmp_path: Path) -> None:
    seen, broken = Recorder(), tmp_path / "broken.gguf"
    broken.write_bytes(files[0].read_bytes()[:100])
    for path in (tmp_path / "missing.gguf", broken, tmp_path):
        with pytest.raises(GGUFError, match=path.name):
            list(speeds([files[0], path], progress=seen))
    assert seen.tasks == []


def test_longer_than_the_model_was_trained_on_is_said(files: list[Path]) -> None:
    seen = Recorder()
    list(speeds(files[0], prompts=[513], generations=[], repeats=1, repack=False, progress=seen))
    assert seen.notes == ["tiny-BF16.gguf was trained on 512 tokens: beyond them it extrapolates"]


def test_a_model_that_embeds_texts(tmp_path: Path) -> None:
    model = convert(checkpoint("bert", tmp_path), tmp_path / "bert.gguf")
    with pytest.raises(EngineError, match=r"bert\.gguf: this model embeds texts and predicts no tokens"):
        benchmark(model, prompts=[8], generations=[], repeats=1)
    with pytest.raises(InputError, match=r"bert\.gguf: prompt or generation: expected at most .* has positions"):
        benchmark(model, prompts=[100_000], generations=[], repeats=1)


def test_speeds_compare_as_values() -> None:
    speed = Speed("a.gguf", (throughput("pp", 8, [1.0]),), ("CPU_REPACK",))
    assert speed.to_dict()["repacked"] is True
    found = Benchmark({}, (speed,), "a.gguf")
    assert found.percentages(speed) == {"pp8": 100.0}
