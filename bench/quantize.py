"""One pass for many files against a run of llama.cpp's `llama_model_quantize` for each, on the same machine, in turn.

    python -m bench.quantize [MODEL.gguf] [--types Q4_K_M,Q8_0] [--effort normal] [--repeats 3] [--threads N] [--json]

Three ways: one pass with our core, one pass with ggml's encoder, and llama.cpp's own runs. Wall time of the calls
alone, peak resident memory of a fresh process each; medians, with the range. What ggml's encoder makes in one pass is
compared first: tensor data that is not byte-identical to llama.cpp's ends the benchmark.

The last case stands for a model of 1.05 billion random weights in the shape of Gemma 3 4B with four of its layers:
every matrix has 1/16 of its rows, at full length. Rows are encoded independently of each other, so the whole model
takes 16 times as long; tables that are made once a process are made before the clock starts, for all three. llama.cpp's
runs share one process, which favours them.
"""

from __future__ import annotations

import argparse
import json
import os
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
from tests.recipes import shapes

from quantpress.codec import EFFORTS
from quantpress.convert import convert
from quantpress.cpu import default_threads
from quantpress.quantize import quantize
from quantpress.release import CARD_VARIANTS

ROOT = Path(__file__).parents[1]
QUANTIZED = [name for name in CARD_VARIANTS if name not in ("BF16", "MP")]
SHARE = 16  # the sample has 1 / SHARE of the rows
CASES = {"release card and MP": list(CARD_VARIANTS), "Q4_K_M alone": ["Q4_K_M"], "Q8_0 alone": ["Q8_0"]}


@dataclass(frozen=True)
class Case:
    """What is quantized, to what, how much more the whole would be; a small model that warms a process up."""

    name: str
    model: Path
    warm: Path
    types: list[str]
    share: int = 1


@dataclass(frozen=True)
class Way:
    """Seconds and peak bytes of one way: one number a repeat."""

    seconds: list[float]
    peak: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a float GGUF; default: the bundled demo, and the sample")
    parser.add_argument("--types", help="recipes of one pass, in place of the usual cases")
    parser.add_argument("--effort", default="normal", choices=EFFORTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = {
            case.name: measure(case, Path(name), given.threads, given.repeats, given.effort)
            for case in cases(given.model, given.types.split(",") if given.types else None, Path(name))
        }
    if given.json:
        ways = {case: {way: asdict(found) for way, found in result.items()} for case, result in results.items()}
        print(json.dumps(ways, indent=2))
    else:
        print(table(results, given.threads))


def cases(given: Path | None, types: list[str] | None, folder: Path) -> list[Case]:
    """The cases that were asked for, with their models in `folder`."""
    warm = models.save(folder / "Warm-BF16.gguf")
    model = given or convert(ROOT / "examples" / "demo-gemma3", folder / "demo-gemma3-BF16.gguf")
    if types:
        return [Case(",".join(types), model, warm, types)]
    usual = [Case(name, model, warm, wanted) for name, wanted in CASES.items()]
    if given:
        return usual
    name = f"1.05 B weights (1/{SHARE} of the rows × {SHARE})"
    return [*usual, Case(name, sample(folder / "Sample-BF16.gguf"), warm, QUANTIZED, SHARE)]


def sample(path: Path) -> Path:
    """Four layers of Gemma 3 4B and its embedding, Student-t weights, 1 / SHARE of the rows of each matrix."""
    layers: shapes.Shapes = {}
    for block in shapes.blocks(4):
        layers |= shapes.attention(block, 2560, heads=8, kv_heads=4, size=256) | shapes.ffn(block, 2560, 10240)
    whole = {"token_embd.weight": (2560, 262144), **layers}
    return models.save(path, {name: (cols, rows // SHARE) for name, (cols, rows) in whole.items()}, layers=4)


def measure(case: Case, folder: Path, threads: int, repeats: int, effort: str) -> dict[str, Way]:
    """All three in turn, `repeats` times."""
    imatrix = folder / "imatrix.gguf"
    importance = models.importance(case.model, imatrix, embedding=False)
    (folder / "theirs").mkdir(exist_ok=True)
    jobs = requests.jobs(case.model, folder / "theirs", case.types, importance, threads)
    ways = {name: Way([], []) for name in ("quantpress", "ggml", "llama.cpp")}
    for _ in range(repeats):
        for encoder, pace in (("quantpress", effort), ("ggml", "normal")):
            seconds, memory, paths = one_pass(case, imatrix, folder / encoder, threads, encoder, pace)
            ways[encoder].seconds.append(seconds * case.share)
            ways[encoder].peak.append(memory)
        results = theirs(case, folder, jobs)
        ways["llama.cpp"].seconds.append(case.share * sum(result.seconds for result in results))
        ways["llama.cpp"].peak.append(max(result.peak for result in results))
        for job, result, path in zip(jobs, results, paths, strict=True):
            if result.status or models.differing(path, Path(job.out)):
                sys.exit(f"{path.name} is not what llama.cpp makes\n{result.log}")
    return ways


def theirs(case: Case, folder: Path, jobs: Sequence[llama_quantize.Job]) -> list[llama_quantize.Result]:
    """The results of the jobs, after the same on the small model."""
    (folder / "warm").mkdir(exist_ok=True)
    values = models.importance(case.warm, folder / "warm.gguf")
    warm = requests.jobs(case.warm, folder / "warm", case.types, values)
    return llama_quantize.run([*warm, *jobs])[len(warm) :]


def one_pass(
    case: Case, imatrix: Path, out: Path, threads: int, encoder: str, effort: str
) -> tuple[float, int, list[Path]]:
    """Ours, in a process of its own."""
    models.importance(case.warm, out.with_name("warm.gguf"))
    asked = [str(path) for path in (case.model, imatrix, out, case.warm, out.with_name("warm.gguf"))]
    how = {"types": case.types, "threads": threads, "encoder": encoder, "effort": effort}
    code = "from bench.quantize import child; child()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([asked, how]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    seconds, memory, paths = json.loads(done.stdout)
    return seconds, memory, [Path(path) for path in paths]


def child() -> None:
    (model, imatrix, out, warm, warm_imatrix), how = json.load(sys.stdin)
    quantize(warm, imatrix=warm_imatrix, out=Path(out) / "warm", **how)
    os.sync()  # or our fsync would wait for what the others have left unwritten
    start = time.perf_counter()
    paths = quantize(model, imatrix=imatrix, out=out, **how)
    print(json.dumps([time.perf_counter() - start, peak(), [str(path) for path in paths]]))


def table(results: dict[str, dict[str, Way]], threads: int) -> str:
    lines = [f"{threads} threads{'':34}seconds (range)         llama.cpp / this   peak, MB"]
    for case, ways in results.items():
        lines.append(case)
        for name, way in ways.items():
            pairs = zip(ways["llama.cpp"].seconds, way.seconds, strict=True)
            ratio = statistics.median(peer / ours for peer, ours in pairs)
            memory = statistics.median(way.peak) / 1e6
            lines.append(f"    {name:36} {spread(way.seconds):24} {ratio:8.2f} ×        {memory:8.0f}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
