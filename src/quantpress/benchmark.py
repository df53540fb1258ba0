"""How fast files read prompts and write tokens, as llama-bench measures it: tokens a second, mean and deviation.

A speed is that of a machine, and should be what its owner gets from llama.cpp's programs. So, unlike where damage is
measured, weights may be repacked for the CPU (Q4_0, IQ4_NL and others, on ARM and AVX: faster, and not the same sums)
and waiting threads keep their cores. Which layouts a file got is part of its result, since it is what happened and not
what was asked for: where llama.cpp's process dies of repacked weights, the layout that it prefers is given up, for this
file and those after it, and a note says so.

A file's tests run one after the other in one process, as in llama-bench. What else the machine does meanwhile is in
the numbers; the deviation shows some of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpress.cpu import default_threads
from quantpress.engine import Engine, hardware
from quantpress.errors import CrashError, InputError
from quantpress.model import check_threads, note_context, read_model
from quantpress.progress import SILENT, Progress
from quantpress.recipes import MIXES
from quantpress.text import Paths, paths_of

__all__ = [
    "REFERENCE",
    "Benchmark",
    "Speed",
    "Throughput",
    "benchmark",
    "machine",
    "percentages",
    "speeds",
    "throughput",
]

REFERENCE = "Q4_0"
"""What speeds are compared with, as in the field's tables."""

_MOST_TOKENS = 1 << 24
_Test = tuple[str, int]  # "pp" or "tg", tokens


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens a second in a test of llama-bench's name (pp512, tg128): mean and sample standard deviation."""

    test: str
    tokens: int
    mean: float
    deviation: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a file; `layouts` are those that some of its weights were repacked to."""

    file: str
    tests: tuple[Throughput, ...]
    layouts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON, which names the file elsewhere."""
        tests = [asdict(test) for test in self.tests]
        return {"tests": tests, "repacked": bool(self.layouts), "layouts": list(self.layouts)}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The speeds of files on a machine (see `machine`); `reference` is the first Q4_0 file among them."""

    machine: dict[str, Any]
    speeds: tuple[Speed, ...]
    reference: str | None

    def percentages(self, speed: Speed) -> dict[str, float]:
        """A file's speed in percent of the reference's, by test; empty without a reference."""
        found = [one for one in self.speeds if one.file == self.reference]
        return percentages(speed.to_dict(), found[0].to_dict()) if found else {}

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON; the reference, and percentages of it, where there is one."""
        found: dict[str, Any] = {"machine": self.machine, "files": {one.file: one.to_dict() for one in self.speeds}}
        if self.reference is not None:
            found["reference"] = self.reference
            found["percent"] = {one.file: self.percentages(one) for one in self.speeds}
        return found


def benchmark(
    files: Paths,
    *,
    prompts: Sequence[int] = (512, 1024, 2048),
    generations: Sequence[int] = (128, 256, 512),
    repeats: int = 5,
    threads: int | None = None,
    gpu_layers: int = 0,
    repack: bool = True,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure all `files`: see `speeds`."""
    paths = list(dict.fromkeys(paths_of(files)))
    reference = next((str(path) for path in paths if _is_reference(path)), None)
    settings: dict[str, Any] = {"prompts": prompts, "generations": generations, "repeats": repeats, "repack": repack}
    found = tuple(speeds(paths, **settings, threads=threads, gpu_layers=gpu_layers, progress=progress))
    return Benchmark(machine(threads, gpu_layers), found, reference)


def speeds(
    files: Paths,
    *,
    prompts: Sequence[int] = (512, 1024, 2048),
    generations: Sequence[int] = (128, 256, 512),
    repeats: int = 5,
    threads: int | None = None,
    gpu_layers: int = 0,
    repack: bool = True,
    progress: Progress = SILENT,
) -> Iterator[Speed]:
    """The speed of each of `files` as it is measured.

    Args:
        files: a GGUF file or several (of a split one, the first part).
        prompts: lengths of prompts to read, in tokens; none for no such test.
        generations: numbers of tokens to write, one after the other; none for no such test.
        repeats: runs of each test.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU.
        repack: let llama.cpp repack weights for the CPU, as it does by default.
        progress: told of every run, of repacking that failed, and of prompts longer than the model knows.

    Raises GGUFError, InputError for a file that is no model or an unusable setting, EngineError for a model that
    predicts no tokens and where llama.cpp fails.
    """
    paths, tests = paths_of(files), _tests(prompts, generations)
    if repeats < 1:
        raise InputError(None, "repeats", expected="at least 1", found=repeats)
    check_threads(threads)
    for path in paths:
        _check_model(path, tests, progress)
    layouts = hardware().layouts if repack else ()
    for path in paths:
        while True:
            settings: dict[str, Any] = {"threads": threads, "gpu_layers": gpu_layers, "layouts": layouts}
            try:
                found = _measured(path, tests, repeats, settings, progress)
                break
            except CrashError as error:
                if not layouts:
                    raise
                progress.note(_without(layouts, error))
                layouts = layouts[1:]
        yield found


def machine(threads: int | None, gpu_layers: int) -> dict[str, Any]:
    """What the speeds are of: `cpu`, `threads`, `backend`, `features` of the CPU that llama.cpp uses, `gpu_layers`.

    `backend` is the GPU's name where llama.cpp is built for one and finds it, as in llama-bench: even without layers
    of its own it computes the products of long prompts. It is CPU everywhere else. Raises EngineError.
    """
    found = hardware()
    return {
        "cpu": found.cpu,
        "threads": threads or default_threads(),
        "backend": ", ".join(found.gpus) or "CPU",
        "features": list(found.features),
        "gpu_layers": gpu_layers,
    }


def throughput(kind: str, tokens: int, seconds: Sequence[float]) -> Throughput:
    """The speed in a test of `tokens` tokens from the seconds of its runs; the deviation of a single run is 0."""
    found = [tokens / run for run in seconds]
    deviation = statistics.stdev(found) if len(found) > 1 else 0.0
    return Throughput(f"{kind}{tokens}", tokens, statistics.fmean(found), deviation, len(found))


def percentages(speed: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """One speed (see `Speed.to_dict`) in percent of another, by the tests that both have."""
    means = {test["test"]: test["mean"] for test in reference["tests"]}
    return {
        test["test"]: 100 * (test["mean"] / means[test["test"]]) for test in speed["tests"] if test["test"] in means
    }


def _tests(prompts: Sequence[int], generations: Sequence[int]) -> list[_Test]:
    """The tests, none twice; raises InputError for a length that is none."""
    for field, lengths in (("prompt", prompts), ("generation", generations)):
        for tokens in lengths:
            if not 1 <= tokens <= _MOST_TOKENS:
                raise InputError(None, field, expected=f"1 to {_MOST_TOKENS:,} tokens", found=f"{tokens:,}")
    tests = [("pp", tokens) for tokens in prompts] + [("tg", tokens) for tokens in generations]
    if not tests:
        raise InputError(None, "tests", expected="at least one length of a prompt or a generation", found="none")
    return list(dict.fromkeys(tests))


def _check_model(path: Path, tests: Sequence[_Test], progress: Progress) -> None:
    """Raise InputError for a file that is no model, or one whose table of positions a test runs over."""
    longest = max(tokens for _, tokens in tests)
    with read_model(path) as model:
        note_context(model, longest, progress)
        positions = model.tensors.get("position_embd.weight")
    if positions is not None and positions.rows < longest:
        expected = f"at most {positions.rows:,} tokens, for which the model has positions"
        raise InputError(path, "prompt or generation", expected=expected, found=f"{longest:,}")


def _is_reference(path: Path) -> bool:
    with read_model(path) as model:
        return bool(model.get("general.file_type") == MIXES[REFERENCE].file_type)


def _measured(
    path: Path, tests: Sequence[_Test], repeats: int, settings: Mapping[str, Any], progress: Progress
) -> Speed:
    """All tests of a file in one process."""
    with (
        progress.task(f"benchmark {path.name}", total=len(tests) * repeats, unit="runs") as advance,
        Engine(path, spinning=True, **settings) as engine,
    ):
        found = []
        for kind, tokens in tests:
            seconds = []
            for run in engine.timing(kind, tokens, repeats=repeats):
                seconds.append(run)
                advance(1)
            found.append(throughput(kind, tokens, seconds))
        return Speed(str(path), tuple(found), engine.info.repacked)


def _without(layouts: Sequence[str], error: CrashError) -> str:
    """The note where llama.cpp died with these layouts."""
    allowed, rest = " or ".join(layouts), " or ".join(layouts[1:])
    what = str(error).partition("\n")[0]
    instead = f"repacked as {rest} at most" if rest else "not repacked"
    return f"{what} when weights could be repacked as {allowed}: from here on they are {instead}"
