"""What second moments cost: collecting them against the bare forward pass, and what that means for larger models.

    python -m bench.moments TEXT [--model FILE.gguf] [--chunks 32] [--rounds 5] [--threads N] [--json FILE]

Without a model, the bundled one. In each round, in turn and in the same process: the forward pass alone (every position
an output, as an importance matrix needs it), with the importance matrix, with both it and the moments, all in one pass.
Printed: medians of tokens a second, and the medians of the rounds' ratios to the bare pass, of seconds and of the
engine's CPU seconds (on Linux): the latter hold on a machine that others use too, where the former say little.

Then an extrapolation. A token costs a forward pass F = 2 × weights of all products, the output included (attention's
own products are left out: few in windows of 512), and moments M = 2 × Σ packed values of the inputs, one multiplication
and addition each, n (n + 256) / 2 of an input of n columns. Rates come from this run: the model's own F a second, and
products of strips at the width at hand, timed by themselves. Time = (passes evaluated × F) / rate + M / rate, where
k passes evaluate 1 + (k - 1) / 2 times the layers: all but the first stop behind their last input. The bundled model is
small: larger matrices usually run at a higher rate than its own, which makes the bare pass shorter than is said here,
and the ratio larger.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import gguf, text
from quantpress.blas import one_thread
from quantpress.convert import convert
from quantpress.cpu import default_threads
from quantpress.engine import Engine, Tokens
from quantpress.engine.inputs import Input, Range
from quantpress.moments.collect import WIDTH, Collection, held_out, passes
from quantpress.moments.file import SAMPLES, Header
from quantpress.strips import blocks_of, packed_size, strips

ROOT = Path(__file__).parents[1]
CONTEXT = 512
ROWS = 512  # of a product

Rounds = dict[str, list[float]]


@dataclass(frozen=True)
class Shape:
    """A dense model: sizes of a layer, number of layers, rows of the output."""

    name: str
    hidden: int
    query: int
    key: int
    wide: int
    layers: int
    vocabulary: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of a layer's four inputs: of query, key, value; of the attention's output; of gate, up; of down."""
        return self.hidden, self.query, self.hidden, self.wide

    @property
    def layer_weights(self) -> int:
        """Weights of a layer's products."""
        return self.hidden * (2 * self.query + 2 * self.key + 3 * self.wide)

    @property
    def forward(self) -> float:
        """FLOPs a token."""
        return 2.0 * (self.layers * self.layer_weights + self.hidden * self.vocabulary)

    @property
    def moments(self) -> float:
        """FLOPs a token."""
        return 2.0 * self.layers * sum(packed_size(blocks_of(n, WIDTH)) for n in self.widths)

    def passes(self, memory: int, tokens: int) -> int:
        """Over the text, with so much memory and so many tokens held out."""
        inputs = [Input(f"{i}", (), n, 1, 1, False) for i in range(self.layers) for n in self.widths]
        return len(passes(inputs, Collection(Path(), Header((), 0, 0), "", memory), tokens))


SHAPES = (
    Shape("4 B (Gemma 3)", 2560, 2048, 1024, 10240, 34, 262_208),
    Shape("31 B (60 layers)", 5376, 8192, 4096, 21504, 60, 262_144),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = given.model or convert(ROOT / "examples" / "demo-gemma3", Path(name) / "demo-gemma3-BF16.gguf")
        with gguf.read(model) as file:
            products = [one for key, one in file.tensors.items() if key.startswith("blk.") and len(one.shape) == 2]
            output = file.tensors.get("output.weight", file.tensors["token_embd.weight"])
            forward = 2.0 * (sum(one.weights for one in products) + output.weights)
        seconds, cpu = measured(model, given)
    tokens = given.chunks * CONTEXT
    print(table(seconds, cpu, tokens))
    rate = forward * tokens / statistics.median(seconds["forward"])
    speeds = {n: products_rate(n, given.threads) for n in sorted({n for shape in SHAPES for n in shape.widths})}
    found = [extrapolated(shape, rate, speeds, memory) for shape in SHAPES for memory in (4 * 10**9, 64 * 10**9)]
    print("\n".join([f"\nforward {rate / 1e9:.0f} GFLOP/s", *found]))
    if given.json:
        given.json.write_text(
            json.dumps({"seconds": seconds, "cpu_seconds": cpu, "shapes": [asdict(one) for one in SHAPES]}, indent=2)
        )


def measured(model: Path, given: argparse.Namespace) -> tuple[Rounds, Rounds]:
    """Seconds of each round, by what was collected, and the engine's CPU seconds."""
    with Engine(model, threads=given.threads) as engine:
        windows = text.chunks(engine, [given.text], CONTEXT, limit=given.chunks)
        wanted = [Range(one, 0, one.matrices, blocks_of(one.cols, WIDTH)) for one in engine.inputs(windows[0])]
        kinds: dict[str, dict[str, Any]] = {
            "forward": {"wanted": [], "squares": False},
            "imatrix": {"wanted": [], "squares": True},
            "moments": {"wanted": wanted, "squares": True},
        }
        wall: Rounds = {name: [] for name in kinds}
        cpu: Rounds = {name: [] for name in kinds}
        for number in range(given.rounds + 1):
            order = list(kinds)[:: 1 if number % 2 else -1]
            for name in order:
                before = cpu_seconds(engine.child.pid)
                seconds = timed(engine, windows, kinds[name])
                if number:  # the first round warms up
                    wall[name].append(seconds)
                    cpu[name].append(cpu_seconds(engine.child.pid) - before)
    return wall, cpu


def cpu_seconds(pid: int) -> float:
    """Of a process so far; NaN where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(engine: Engine, windows: Tokens, settings: dict[str, Any]) -> float:
    start = time.perf_counter()
    for _ in engine.moments(windows, held_out=held_out(len(windows)), sample=SAMPLES, **settings):
        pass
    return time.perf_counter() - start


def table(seconds: Rounds, cpu: Rounds, tokens: int) -> str:
    lines = [f"{'':9} tokens/s   of the bare pass      of its CPU seconds"]
    for name, rounds in seconds.items():
        columns = "   ".join(f"{ratio(found, name):18}" for found in (seconds, cpu))
        lines.append(f"{name:9} {tokens / statistics.median(rounds):8,.0f}   {columns}")
    return "\n".join(lines)


def ratio(found: Rounds, name: str) -> str:
    """To the bare pass: the median of the rounds, the least and the greatest."""
    ratios = sorted(own / bare for own, bare in zip(found[name], found["forward"], strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"


def products_rate(cols: int, threads: int, rounds: int = 3) -> float:
    """FLOPs a second of the strips of an input of so many columns, added up in float64: 2 a packed value and row."""
    blocks = blocks_of(cols, WIDTH)[:1]
    rows = np.random.default_rng(0).standard_normal((ROWS, blocks[0])).astype(np.float32)
    some = list(strips(blocks))[:8]  # of the first block: enough to time
    sums = [np.zeros(one.shape) for one in some]

    def add(number: int) -> None:
        one = some[number]
        sums[number] += rows[:, one.first : one.last].T @ rows[:, one.first : one.end]

    found = []
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):
            start = time.perf_counter()
            list(pool.map(add, range(len(some))))
            found.append(time.perf_counter() - start)
    return 2.0 * ROWS * sum(one.size for one in sums) / statistics.median(found[1:])


def extrapolated(shape: Shape, rate: float, speeds: dict[int, float], memory: int) -> str:
    count = shape.passes(memory, 16 * CONTEXT)
    output = 2.0 * shape.hidden * shape.vocabulary
    evaluated = (shape.forward + (count - 1) / 2 * (shape.forward - output)) / rate
    bare = shape.forward / rate
    sums = sum(2.0 * shape.layers * packed_size(blocks_of(n, WIDTH)) / speeds[n] for n in shape.widths)
    return (
        f"{shape.name}: F {shape.forward / 1e9:.1f}, M {shape.moments / 1e9:.1f} GFLOP a token at "
        f"{min(speeds[n] for n in shape.widths) / 1e9:.0f} … {max(speeds[n] for n in shape.widths) / 1e9:.0f} GFLOP/s; "
        f"{memory / 1e9:.0f} GB: {count} passes, {(evaluated + sums) / bare:.2f} × the bare pass, "
        f"{1 / (evaluated + sums):,.2f} tokens/s"
    )


if __name__ == "__main__":
    main()
