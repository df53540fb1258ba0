"""One pass for many files against a run of llama.cpp's `llama_model_quantize` for each, on the same machine, in turn.

    python -m bench.quantize [MODEL.gguf] [--types Q4_K_M,Q8_0] [--repeats 3] [--threads N] [--json]

Wall time of the calls alone, peak resident memory of a fresh process each; medians, with the range. The files are
compared first: tensor data that is not byte-identical ends the benchmark. llama.cpp's runs share one process, which
favours them: its tables for the IQ types are made once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.oracle import llama_quantize, models, requests
from tests.oracle.memory import peak

from quantpress.convert import convert
from quantpress.cpu import default_threads
from quantpress.quantize import quantize
from quantpress.release import CARD_VARIANTS

ROOT = Path(__file__).parents[1]
CASES = {"release card and MP": list(CARD_VARIANTS), "Q4_K_M alone": ["Q4_K_M"], "Q8_0 alone": ["Q8_0"]}


@dataclass(frozen=True)
class Row:
    """Seconds and bytes: one number a repeat."""

    case: str
    files: int
    ours: list[float]
    theirs: list[float]
    our_peak: list[int]
    their_peak: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a float GGUF; default: the bundled demo in BF16")
    parser.add_argument("--types", help="recipes of one pass, in place of the usual cases")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cases = {given.types: given.types.split(",")} if given.types else CASES
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or convert(ROOT / "examples" / "demo-gemma3", Path(folder) / "demo-gemma3-BF16.gguf")
        rows = [
            measure(case, types, model, Path(folder), given.threads, given.repeats) for case, types in cases.items()
        ]
    print(json.dumps([asdict(row) for row in rows], indent=2) if given.json else table(rows, given.threads))


def measure(case: str, types: list[str], model: Path, folder: Path, threads: int, repeats: int) -> Row:
    """Both in turn, `repeats` times."""
    imatrix = folder / "imatrix.gguf"
    importance = models.importance(model, imatrix, embedding=False)
    (folder / "theirs").mkdir(exist_ok=True)
    jobs = requests.jobs(model, folder / "theirs", types, importance, threads)
    row = Row(case, len(types), [], [], [], [])
    for _ in range(repeats):
        seconds, memory, paths = one_pass(model, imatrix, types, folder / "ours", threads)
        row.ours.append(seconds)
        row.our_peak.append(memory)
        results = llama_quantize.run(jobs)
        row.theirs.append(sum(result.seconds for result in results))
        row.their_peak.append(max(result.peak for result in results))
        for job, result, path in zip(jobs, results, paths, strict=True):
            if result.status or models.differing(path, Path(job.out)):
                sys.exit(f"{path.name} is not what llama.cpp makes\n{result.log}")
    return row


def one_pass(
    model: Path, imatrix: Path, types: Sequence[str], out: Path, threads: int
) -> tuple[float, int, list[Path]]:
    """Ours, in a process of its own."""
    asked = json.dumps([str(model), str(imatrix), list(types), str(out), threads])
    code = "from bench.quantize import child; child()"
    done = subprocess.run(
        [sys.executable, "-c", code], input=asked, check=True, capture_output=True, text=True, cwd=ROOT
    )
    seconds, memory, paths = json.loads(done.stdout)
    return seconds, memory, [Path(path) for path in paths]


def child() -> None:
    model, imatrix, types, out, threads = json.load(sys.stdin)
    start = time.perf_counter()
    paths = quantize(model, types=types, imatrix=imatrix, out=out, threads=threads)
    print(json.dumps([time.perf_counter() - start, peak(), [str(path) for path in paths]]))


def table(rows: Sequence[Row], threads: int) -> str:
    lines = [f"{threads} threads", f"{'':22} files  one pass, s     llama.cpp, s     speed-up   peak, MB  theirs"]
    for row in rows:
        ratio = statistics.median(theirs / ours for ours, theirs in zip(row.ours, row.theirs, strict=True))
        lines.append(
            f"{row.case:22} {row.files:5}  {spread(row.ours)} {spread(row.theirs)} {ratio:8.2f} ×"
            f"  {statistics.median(row.our_peak) / 1e6:9.0f}  {statistics.median(row.their_peak) / 1e6:6.0f}"
        )
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
