"""The core's encoders and decoders against ggml's, in the same process, in turn, one thread each.

    python -m bench.kernels [--types Q4_K,IQ2_S] [--repeats 5] [--effort normal] [--rows N] [--cols N] [--json FILE]

For each type, on Gaussian and Student-t (4 degrees of freedom) weights and on a real matrix, the last FFN down
projection of the bundled demo with the importance that it measures on a text, each with importance and without:

- first what is timed is verified: every instruction set writes the bytes of the scalar reference (of a plain float:
  ggml's bytes), ggml finds them valid, each decodes to the floats of the gguf package, and the error that is reported
  is that of the decoded weights. A type that fails is not timed, and the exit status is 1;
- then wall time, encoding and decoding, as the median of the ratios of neighbouring runs with their range; relative
  weighted squared errors sum w (x - y)^2 / sum w x^2; two threads against one, which needs an idle machine.

ggml's decoders and encoders are called without any checks of ours; for ours the public functions are timed, checks
included. Where ggml cannot encode a type without importance it is given ones, and the line says so. Tables that are
made once a process are made before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from bench.verification import Sample, squared_errors, verify
from numpy.typing import NDArray

import quantpress
from quantpress import _native
from quantpress.arrays import Floats
from quantpress.codec import EFFORTS
from quantpress.convert import convert
from quantpress.cpu import default_threads, instruction_set
from quantpress.engine import ggml
from quantpress.formats import TYPES, TensorType, tensor_type
from quantpress.gguf import read
from quantpress.imatrix import imatrix
from quantpress.imatrix import read as read_imatrix

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "tests" / "data" / "prose.txt"
ENCODED = [TYPES[name] for name in _native.types() if name != "F32"]
TARGETS = {  # how many times faster than ggml, with importance; without it: never slower
    15: "Q2_K Q4_K Q5_K Q4_1 Q5_1 IQ4_NL IQ4_XS",
    8: "Q3_K Q6_K Q4_0 Q5_0 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S",
    3: "Q8_0 F16 BF16 TQ1_0 TQ2_0 MXFP4",
}
MEAN_TARGET = 12
THREADS_TARGET = 1.9
MEMORY_SPEED = 0.8  # of the bytes a second of a plain copy: more cannot be asked of a type with target 3
SHORTEST = 0.02  # seconds of a timing; short calls are repeated


@dataclass(frozen=True)
class Timing:
    """Millions of weights a second of both, and how many times faster ours was in each repeat."""

    ours: float
    theirs: float
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Encoding:
    """One type on one sample, with importance or without."""

    type: str
    sample: str
    importance: bool
    ggml_had_ones: bool
    speed: Timing
    memory: float  # bytes a second, read and written, over those of a copy
    error: float
    ggml_error: float

    @property
    def target(self) -> float:
        """How many times faster ours should be."""
        return speed_target(self.type) if self.importance else 1

    @property
    def reached(self) -> bool:
        """At the target, or at memory speed where that is the limit."""
        limited = speed_target(self.type) == min(TARGETS) and self.memory >= MEMORY_SPEED
        return self.speed.ratio >= self.target or limited

    @property
    def error_ratio(self) -> float:
        """Ours over ggml's; 1 where both are 0: weights that were in that type."""
        return max(self.error, 1e-30) / max(self.ggml_error, 1e-30)

    @property
    def no_worse(self) -> bool:
        """But for the order in which the errors are added."""
        return self.error_ratio <= 1 + 1e-6


@dataclass(frozen=True)
class General:
    """What is measured once a type."""

    type: str
    decoding: Timing | None  # None: a plain float
    threads: list[float]  # one thread's time over that of two, one number a repeat; empty: not measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="separated by commas; default: all that the core encodes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--effort", choices=EFFORTS, default="normal")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--cols", type=int, default=2560)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    types = [tensor_type(name) for name in given.types.split(",")] if given.types else ENCODED
    with tempfile.TemporaryDirectory() as folder:
        samples = [*synthetic(given.rows, given.cols), demo(Path(folder))]
    encodings, general, failures = measure(types, samples, given.effort, given.repeats)
    print(summary(encodings))
    if given.json:
        given.json.write_text(json.dumps(record(given, encodings, general, failures), indent=2))
    if failures:
        sys.exit("not verified, not timed:\n" + "\n".join(failures))


def measure(
    types: Iterable[TensorType], samples: Sequence[Sample], effort: str, repeats: int
) -> tuple[list[Encoding], list[General], list[str]]:
    """Verifies, then times; prints each line as it comes."""
    encodings: list[Encoding] = []
    general: list[General] = []
    failures: list[str] = []
    print(HEAD)
    for type in types:
        found = verify(type, samples, effort)
        failures += found
        if found:
            print("\n".join(found), flush=True)
            continue
        for sample in samples:
            for weighted in (True, False):
                encodings.append(encoding(type, sample, weighted, effort, repeats))
                print(line(encodings[-1]), flush=True)
        general.append(General(type.name, decoding(type, samples[0], repeats), scaling(type, samples[0], repeats)))
        print(general_line(general[-1]), flush=True)
    return encodings, general, failures


def synthetic(rows: int, cols: int) -> Iterator[Sample]:
    """Weights of the usual size; importance with the heavy tail that activations have."""
    draw = np.random.default_rng(1)
    importance = (draw.standard_gamma(0.5, cols) + 1e-3).astype(np.float32)
    yield Sample("Gaussian", (0.02 * draw.standard_normal((rows, cols))).astype(np.float32), importance)
    yield Sample("Student-t", (0.02 * draw.standard_t(4, (rows, cols))).astype(np.float32), importance)


def demo(folder: Path) -> Sample:
    """The last FFN down projection of the bundled model."""
    model = convert(ROOT / "examples" / "demo-gemma3", folder / "demo-gemma3-BF16.gguf")
    measured = read_imatrix(imatrix(model, text=TEXT, out=folder / "imatrix.gguf"))
    with read(model) as file:
        name = [name for name in file.tensors if name.endswith("ffn_down.weight")][-1]
        tensor = file.tensors[name]
        x = quantpress.decode(file.data(name), tensor.type.name, tensor.cols)
    return Sample("demo", x, np.ascontiguousarray(measured.importance(name, 1)[0], np.float32))


def encoding(type: TensorType, sample: Sample, weighted: bool, effort: str, repeats: int) -> Encoding:
    x, importance = sample.x, sample.importance if weighted else None
    ones = importance is None and ggml.requires_importance(type)
    theirs_importance = np.ones(x.shape[1], np.float32) if ones else importance

    def ours() -> NDArray[np.uint8]:
        return quantpress.encode(x, type.name, importance, threads=1, effort=effort)

    def theirs() -> NDArray[np.uint8]:
        return ggml.quantize(x, type, theirs_importance)

    speed = timing(ours, theirs, x.size, repeats)
    memory = speed.ours * (4 + type.bits_per_weight / 8) / copy_speed(x)
    errors = [relative_error(encode(), type, x, importance) for encode in (ours, theirs)]
    return Encoding(type.name, sample.name, weighted, ones, speed, memory, *errors)


def relative_error(encoded: NDArray[np.uint8], type: TensorType, x: Floats, importance: Floats | None) -> float:
    decoded = quantpress.decode(encoded, type.name, x.shape[1])
    whole = squared_errors(x, np.zeros_like(x), importance)
    return float(squared_errors(x, decoded, importance).sum() / whole.sum())


def decoding(type: TensorType, sample: Sample, repeats: int) -> Timing | None:
    if not type.quantized:
        return None
    cols = sample.x.shape[1]
    encoded = quantpress.encode(sample.x, type.name, sample.importance)
    return timing(
        lambda: quantpress.decode(encoded, type.name, cols, threads=1),
        lambda: ggml.dequantize(encoded, type, cols),
        sample.x.size,
        repeats,
    )


def scaling(type: TensorType, sample: Sample, repeats: int) -> list[float]:
    """How many times faster two threads are, on enough rows that starting them does not count."""
    if default_threads() < 2:
        return []
    x = np.tile(sample.x, (8, 1))

    def encode(threads: int) -> Callable[[], object]:
        return lambda: quantpress.encode(x, type.name, sample.importance, threads=threads)

    return timing(encode(2), encode(1), x.size, repeats).ratios


def timing(ours: Callable[[], object], theirs: Callable[[], object], weights: int, repeats: int) -> Timing:
    """Both in turn, so that a machine that slows down slows both."""
    calls = [calls_of(work) for work in (ours, theirs)]  # the first call makes tables
    pairs = [(seconds(ours, calls[0]), seconds(theirs, calls[1])) for _ in range(repeats)]
    rates = [weights / statistics.median(side) / 1e6 for side in zip(*pairs, strict=True)]
    return Timing(rates[0], rates[1], [other / own for own, other in pairs])


def calls_of(work: Callable[[], object]) -> int:
    """As many as take long enough to be timed."""
    work()
    return math.ceil(SHORTEST / seconds(work, 1))


def seconds(work: Callable[[], object], calls: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def copy_speed(x: Floats) -> float:
    """Millions of bytes a second that a copy of the weights reads and writes, into fresh memory as an encoder does."""
    calls = calls_of(x.copy)
    return 2 * x.nbytes / statistics.median(seconds(x.copy, calls) for _ in range(5)) / 1e6


def speed_target(type: str) -> int:
    return next(target for target, names in TARGETS.items() if type in names.split())


HEAD = (
    f"{'type':8}{'weights':10}{'importance':12}{'ggml Mw/s':>10}{'ours':>8}{'times':>8} {'range':15}{'target':>7}"
    f"{'ggml error':>13}{'ours':>11}{'ours/ggml':>11}"
)


def line(one: Encoding) -> str:
    importance = "yes" if one.importance else "no (ones)" if one.ggml_had_ones else "no"
    target = f"{one.target:g}{'' if one.reached else ' !'}"
    ratio = f"{one.error_ratio:.4f}{'' if one.no_worse else ' !'}"
    rates = f"{one.speed.theirs:10.1f}{one.speed.ours:8.1f}"
    return (
        f"{one.type:8}{one.sample:10}{importance:12}{rates}{spread(one.speed.ratios)}"
        f"{target:>7}{one.ggml_error:13.4g}{one.error:11.4g}{ratio:>11}"
    )


def general_line(one: General) -> str:
    parts = []
    if one.decoding:
        parts.append(f"decoding {one.decoding.theirs:.0f} → {one.decoding.ours:.0f} Mw/s,{spread(one.decoding.ratios)}")
    if one.threads:
        missed = "" if statistics.median(one.threads) >= THREADS_TARGET else " !"
        parts.append(f"two threads{spread(one.threads).rstrip()}{missed}")
    return f"{one.type:8}" + "   ".join(parts)


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):8.2f} {f'({min(ratios):.2f}–{max(ratios):.2f})':15}"


def means(encodings: Sequence[Encoding]) -> list[dict[str, object]]:
    """Geometric means over the types, of each sample and of all."""
    found: list[dict[str, object]] = []
    for weighted in (True, False):
        for sample in [*dict.fromkeys(one.sample for one in encodings), "all"]:
            rows = [one for one in encodings if one.importance == weighted and sample in (one.sample, "all")]
            speed = statistics.geometric_mean(one.speed.ratio for one in rows)
            error = statistics.geometric_mean(one.error_ratio for one in rows)
            found.append({"sample": sample, "importance": weighted, "speed": speed, "error": error})
    return found


def summary(encodings: Sequence[Encoding]) -> str:
    if not encodings:
        return ""
    types = len({one.type for one in encodings})
    lines = [f"\n{types} types, geometric means of ours against ggml: times faster, error"]
    for row in means(encodings):
        target = f"  (target of all types: {MEAN_TARGET})" if row["importance"] and row["sample"] == "all" else ""
        importance = "importance" if row["importance"] else "none"
        lines.append(f"  {row['sample']:10} {importance:12}{row['speed']:7.2f} ×{row['error']:9.4f}{target}")
    missed = [line(one) for one in encodings if not (one.reached and one.no_worse)]
    return "\n".join([*lines, f"missed (!): {len(missed)} of {len(encodings)}", *missed])


def record(
    given: argparse.Namespace, encodings: Sequence[Encoding], general: Sequence[General], failures: Sequence[str]
) -> dict[str, object]:
    packages = ("quantpress", "llama-cpp-python", "gguf", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "cpu": cpu_model(),
        "isa": instruction_set(),
        "effort": given.effort,
        "repeats": given.repeats,
        "encoding": [
            asdict(one) | {"target": one.target, "reached": one.reached, "no_worse": one.no_worse} for one in encodings
        ],
        "general": [asdict(one) for one in general],
        "means": means(encodings) if encodings else [],
        "failures": list(failures),
    }


def cpu_model() -> str:
    try:
        names = [row.partition(":")[2] for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
