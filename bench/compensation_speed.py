"""What encoding with feedback costs: against its matrix products at the speed of numpy's BLAS, and for larger models.

    python -m bench.compensation_speed [--types Q4_K,IQ2_S] [--shapes 1024x2560,512x4096] [--repeats 5] [--json FILE]

Weights are random, rows × columns; the moments are those of inputs that have a quarter as many causes as columns, and
columns of very different size. First what is timed is verified: with feedback the error e H eᵀ is below that of plain
encoding; a type that fails is not timed. Then, in turn and on one thread: compensation.encode with the factor given,
plain encoding, and a float32 product of as many multiply-adds as the feedback between columns, rows × cols² / 2.
Printed are medians, and the median of the repeats' ratios; the exit status is 1 where that is above the target or a
type failed. The rest of the time, s a weight, is the search for scales and codes, three times a block.

Then an extrapolation by counts of operations, of all matrices of a model's layers in one type. For a matrix of r rows,
whose inputs' moments have diagonal blocks of n columns, at this run's rate of products B (multiply-adds a second):

    encoding   = (Σ r n² / 2) / B + weights × s
    factorizing = 3 dampings (2, where the second is not worth it) × Σ over the inputs of n³ / m³ × the time for m
                  columns, the most that were measured

divided by this machine's threads, as rows and inputs do not depend on each other. The choice of the damping, which
encodes 64 rows of each matrix two or three times more, is left out, and so is reading and writing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench.moments import SHAPES, Shape

from quantpress import codec, compensation
from quantpress._native import code_widths
from quantpress.arrays import Bytes, Floats
from quantpress.blas import one_thread
from quantpress.cpu import default_threads, instruction_set
from quantpress.factor import Factor, factorize
from quantpress.formats import TYPES, TensorType, tensor_type
from quantpress.moments.collect import WIDTH
from quantpress.strips import blocks_of

TARGET = 2  # times the products
TYPES_SHOWN = "Q4_0,Q2_K,Q3_K,Q4_K,Q6_K,IQ1_S,IQ2_XXS,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS"
DAMPING = 0.03
TRIED = 3  # dampings
MODELS = (Shape("4 B (36 layers)", 2560, 4096, 1024, 9728, 36, 151_936), SHAPES[1])


@dataclass(frozen=True)
class Case:
    """Weights and the moments of their inputs."""

    x: Floats  # [rows, cols]
    second: Floats  # [cols, cols]

    @property
    def shape(self) -> str:
        """Rows × columns."""
        return "×".join(map(str, self.x.shape))


@dataclass(frozen=True)
class Timing:
    """Seconds of one type on one shape, medians."""

    type: str
    shape: str
    weights: int
    multiply_adds: float  # of the products
    encode: float
    products: float
    plain: float
    ratio: float  # median of encode over products in each repeat
    error: float  # relative to plain encoding's

    @property
    def search(self) -> float:
        """Seconds a weight beside the products."""
        return max(self.encode - self.products, 0) / self.weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default=TYPES_SHOWN)
    parser.add_argument("--shapes", default="1024x2560,512x4096")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    types = [tensor_type(name) for name in given.types.split(",")]
    shapes = [tuple(map(int, shape.split("x"))) for shape in given.shapes.split(",")]
    factorizing: dict[int, float] = {}
    with one_thread():
        timings, failures = measure(types, shapes, given.repeats, factorizing)
    print("\nfactorize, one damping: " + ", ".join(f"{cols} columns {s:.2f} s" for cols, s in factorizing.items()))
    missed = [one for one in timings if one.ratio > TARGET]
    print(f"above {TARGET} × the products (!): {len(missed)} of {len(timings)}")
    print("\n".join(extrapolated(model, timings, factorizing) for model in MODELS if timings))
    if given.json:
        record = {"isa": instruction_set(), "factorize": factorizing, "timings": list(map(asdict, timings))}
        given.json.write_text(json.dumps(record | {"failures": failures}, indent=2))
    if failures or missed:
        sys.exit(1)


def measure(
    types: Sequence[TensorType], shapes: Sequence[tuple[int, ...]], repeats: int, factorizing: dict[int, float]
) -> tuple[list[Timing], list[str]]:
    """Verifies, then times; prints each line as it comes. `factorizing`: seconds by columns, filled in."""
    timings: list[Timing] = []
    failures: list[str] = []
    print(HEAD)
    for rows, cols in shapes:
        case, factors = synthetic(rows, cols), dict[tuple[int, bool], Factor]()
        for type in types:
            key = type.block, code_widths()[type.name] == 1
            if key not in factors:
                start = time.thread_time()
                factors[key] = factorize(case.second, type, DAMPING)
                factorizing[cols] = time.thread_time() - start
            ratio = error_ratio(case, type, factors[key])
            if ratio >= 1:
                failures.append(f"{type.name:8} {case.shape}: {ratio:.3f} × the error of plain encoding")
                print(failures[-1], flush=True)
                continue
            timings.append(timing(case, type, factors[key], ratio, repeats))
            print(line(timings[-1]), flush=True)
    return timings, failures


def synthetic(rows: int, cols: int) -> Case:
    """H = S (I + A Aᵀ / causes) S, S of a log-normal distribution."""
    draw = np.random.default_rng(1)
    causes = draw.standard_normal((cols, cols // 4), np.float32)
    sizes = np.exp(draw.standard_normal(cols)).astype(np.float32)
    second = (np.eye(cols, dtype=np.float32) + 4 / cols * causes @ causes.T) * sizes * sizes[:, None]
    return Case((0.02 * draw.standard_t(5, (rows, cols))).astype(np.float32), second)


def with_feedback(case: Case, type: TensorType, factor: Factor) -> Bytes:
    return compensation.encode(case.x, type, (factor,), threads=1)


def plainly(case: Case, type: TensorType) -> Bytes:
    importance = np.ascontiguousarray(case.second.diagonal())
    (found,) = codec.encode_rows(case.x.view(np.uint8), TYPES["F32"], case.x.shape[1], [type], importance).data
    return found


def error_ratio(case: Case, type: TensorType, factor: Factor) -> float:
    """The error with feedback, e H eᵀ, over that without."""
    errors = []
    for data in (with_feedback(case, type, factor), plainly(case, type)):
        missed = case.x - codec.decode(data, type.name, case.x.shape[1], threads=1)
        errors.append(np.sum((missed @ case.second) * missed, dtype=np.float64))
    return float(errors[0] / errors[1])


def timing(case: Case, type: TensorType, factor: Factor, error: float, repeats: int) -> Timing:
    """All in turn, so that a machine that slows down slows all."""
    cols = case.x.shape[1]
    errors, columns = case.x[:, : cols // 2].copy(), case.second[: cols // 2]
    work: list[Callable[[], object]] = [
        lambda: with_feedback(case, type, factor),
        lambda: errors @ columns,
        lambda: plainly(case, type),
    ]
    taken = [[seconds(one) for one in work] for _ in range(repeats)]
    medians = [statistics.median(side) for side in zip(*taken, strict=True)]
    ratio = statistics.median(encode / products for encode, products, _ in taken)
    return Timing(type.name, case.shape, case.x.size, case.x.size * cols / 2, *medians, ratio, error)


def seconds(work: Callable[[], object]) -> float:
    """Of this thread's processor: other work on the machine does not count, except that it slows both down."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


HEAD = (
    f"{'type':8} {'shape':10}{'error/plain':>12}{'encode ms':>11}{'products':>10}{'plain':>8}{'s, ns':>8}"
    f"{'encode/products':>17}"
)


def line(one: Timing) -> str:
    times = f"{one.encode * 1e3:11.0f}{one.products * 1e3:10.0f}{one.plain * 1e3:8.0f}{one.search * 1e9:8.1f}"
    return f"{one.type:8} {one.shape:10}{one.error:12.3f}{times}{one.ratio:15.2f}{'' if one.ratio <= TARGET else ' !'}"


def extrapolated(model: Shape, timings: Sequence[Timing], factorizing: dict[int, float]) -> str:
    """A line with the seconds of each type."""
    threads, most = default_threads(), max(factorizing)
    rows = (model.query + 2 * model.key, model.hidden, 2 * model.wide, model.hidden)
    inputs = [blocks_of(n, WIDTH) for n in model.widths]
    products = sum(r * n * n / 2 for r, blocks in zip(rows, inputs, strict=True) for n in blocks) * model.layers
    factors = TRIED * model.layers * sum(n**3 for blocks in inputs for n in blocks) / most**3
    found = []
    for type in dict.fromkeys(one.type for one in timings):
        of = [one for one in timings if one.type == type]
        rate = statistics.median(one.multiply_adds / one.products for one in of)
        search = statistics.median(one.search for one in of)
        took = (products / rate + model.layers * model.layer_weights * search) / threads
        found.append(f"{type} {took:,.0f} s")
    factor = factors * factorizing[most] / threads
    return f"{model.name}, {threads} threads: factorizing {factor:,.0f} s, encoding " + ", ".join(found)


if __name__ == "__main__":
    main()
