"""Speeds as `quantpress bench` and as llama-bench measure them, on the same file and threads, in turn.

    python -m bench.speed FILE.gguf… --llama-bench BIN [-p 512] [-n 128] [--threads N] [--rounds 7] [--no-repack]
                          [--json OUT.json]

A round is one process of each with one timed run a test, ours first and theirs first by turns, so that a machine that
slows down slows both. First llama-bench says what it sees of the file and its settings, and what differs from ours ends
the program. Printed: the medians of tokens a second, their ratio, and the spread of the rounds' own ratios.
`--no-repack` is for machines where llama-bench dies of repacked weights: AMX under some hypervisors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpress.benchmark import speeds
from quantpress.cpu import default_threads
from quantpress.engine import Engine

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """Tokens a second of a test of a file, each round's."""

    file: str
    test: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """Ours over theirs, of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def ratios(self) -> list[float]:
        """Ours over theirs of each round, sorted."""
        return sorted(own / other for own, other in zip(self.ours, self.theirs, strict=True))


def llama_bench(given: argparse.Namespace, file: Path, prompt: int, generate: int) -> list[dict[str, Any]]:
    """What llama-bench reports of a run of each test."""
    repack = ("--repack", "0") if given.no_repack else ()
    tests = ("-p", prompt, "-n", generate, "-r", 1, "-t", given.threads, "-ngl", 0)
    command = [given.llama_bench, "-m", file, *tests, *repack, "-o", "json"]
    # In a session of its own, as our engine is: Linux shares a busy machine out between sessions (sched_autogroup).
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, start_new_session=True)
    if done.returncode:
        advice = "" if given.no_repack else "; if it died of repacked weights, --no-repack helps"
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}{advice}\n{done.stderr[-2000:]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def verify(given: argparse.Namespace, file: Path) -> None:
    """End the program unless both measure the same thing."""
    with Engine(file) as engine:
        parameters = engine.info.parameters
    expected = {
        "model_filename": str(file),
        "model_n_params": parameters,
        "n_threads": given.threads,
        "n_gpu_layers": 0,
        "n_batch": 2048,
        "n_ubatch": 512,
        "type_k": "f16",
        "repack": not given.no_repack,
    }
    for row in llama_bench(given, file, 8, 1):
        for field, value in expected.items():
            if row[field] != value:
                sys.exit(f"{file}: {field}: expected {value!r}, llama-bench has {row[field]!r}")


def ours(given: argparse.Namespace, file: Path) -> dict[str, float]:
    settings: dict[str, Any] = {"repeats": 1, "threads": given.threads, "repack": not given.no_repack}
    (found,) = speeds(file, prompts=[given.prompt], generations=[given.generate], **settings)
    return {test.test: test.mean for test in found.tests}


def theirs(given: argparse.Namespace, file: Path) -> dict[str, float]:
    found = llama_bench(given, file, given.prompt, given.generate)
    return {f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}": row["avg_ts"] for row in found}


def measure(given: argparse.Namespace, file: Path) -> list[Row]:
    tests = (f"pp{given.prompt}", f"tg{given.generate}")
    samples: tuple[Samples, Samples] = ({test: [] for test in tests}, {test: [] for test in tests})
    for number in range(given.rounds):
        sides = list(zip((ours, theirs), samples, strict=True))
        for side, found in sides if number % 2 == 0 else reversed(sides):
            for test, speed in side(given, file).items():
                found[test].append(speed)
    return [Row(str(file), test, samples[0][test], samples[1][test]) for test in tests]


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'file':32} {'test':>7} {'quantpress':>11} {'llama-bench':>11}  ratio  its rounds"]
    for row in rows:
        medians = [statistics.median(side) for side in (row.ours, row.theirs)]
        spread = f"{row.ratios[0]:.2f} … {row.ratios[-1]:.2f}"
        lines.append(
            f"{Path(row.file).name:32} {row.test:>7} {medians[0]:11.2f} {medians[1]:11.2f}  {row.ratio:.3f}  {spread}"
        )
    mean = math.exp(statistics.fmean(math.log(row.ratio) for row in rows))
    return "\n".join([*lines, f"geometric mean of the ratios {mean:.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.gguf")
    parser.add_argument("--llama-bench", type=Path, required=True, metavar="BIN")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--generate", type=int, default=128)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-repack", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for file in given.files:
        verify(given, file)
    rows = [row for file in given.files for row in measure(given, file)]
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=2))


if __name__ == "__main__":
    main()
