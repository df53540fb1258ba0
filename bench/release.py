"""Times the release of a checkpoint and its parts, with peak memory, and other tools on the same work.

    python bench/release.py [CHECKPOINT] [--llama-cpp BIN] [--repeats 3] [--json OUT.json]

Each line is a command in a process of its own; memory is the largest of its processes. Each part runs in turn with its
peer, if it has one, and the ratio is the median of theirs over the median of ours. The peer of convert is `cp` of the
weights, the least that a converter has to do; those of the others are llama.cpp's tools in the folder `--llama-cpp`:
`llama-imatrix`, `llama-quantize` once a type, `llama-perplexity` for the base and each file. `--no-repack` keeps them
on the same kernels (and off AMX, which not every hypervisor that reports it can run).
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

ROOT = Path(__file__).parents[1]
QUANTPRESS = (sys.executable, "-m", "quantpress.cli")
MIXES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_M", "Q2_K", "IQ2_M")
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, bytes of memory of the largest process."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Row:
    """One part: the medians of our runs and of the peer's."""

    part: str
    ours: Cost
    peer: Cost | None
    peer_name: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is."""
        return self.peer.seconds / self.ours.seconds if self.peer else None


def cost(commands: Sequence[Command]) -> Cost:
    """Run commands one after the other; their times add up."""
    seconds, memory = 0.0, 0
    for command in commands:
        with tempfile.TemporaryFile() as log:
            start = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            seconds += time.perf_counter() - start
            memory = max(memory, usage.ru_maxrss * 1024)
            if status:
                log.seek(0)
                raise SystemExit(f"{' '.join(map(str, command))}\n{log.read().decode(errors='replace')[-2000:]}")
    return Cost(seconds, memory)


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(c.seconds for c in costs), max(c.memory for c in costs))


def measure(part: str, ours: Sequence[Command], peer: Sequence[Command] | None, repeats: int) -> Row:
    """In turn, so that a machine that slows down slows both."""
    pairs = [(cost(ours), cost(peer) if peer else None) for _ in range(repeats)]
    found = [other for _, other in pairs if other]
    return Row(part, median([own for own, _ in pairs]), median(found) if found else None, named(peer or []))


def named(commands: Sequence[Command]) -> str:
    """The tool that commands run, and how often."""
    if not commands:
        return ""
    return Path(commands[0][0]).name + (f" × {len(commands)}" if len(commands) > 1 else "")


def rows(checkpoint: Path, tools: Path | None, repeats: int, folder: Path) -> list[Row]:
    """All parts, on the texts that a first release has left."""
    release = [*QUANTPRESS, "release", checkpoint, "--out", folder / "release"]
    whole, resumed = measure("release", [release], None, 1), measure("release, nothing to do", [release], None, 1)
    work = folder / "release" / "work"
    base, importance = folder / "model-BF16.gguf", folder / "imatrix.gguf"
    files = [folder / f"model-{mix}.gguf" for mix in MIXES]
    types = [word for mix in MIXES for word in ("--type", mix)]
    calibration, evaluation = work / "calibration.txt", work / "evaluation.txt"

    convert = [*QUANTPRESS, "convert", checkpoint, base]
    imatrix = [*QUANTPRESS, "imatrix", base, "--text", calibration, "--out", importance]
    quantize = [*QUANTPRESS, "quantize", base, "--imatrix", importance, "--out", folder, *types]
    evaluate = [*QUANTPRESS, "evaluate", base, *files, "--text", evaluation]
    return [
        whole,
        resumed,
        measure("convert", [convert], [["cp", checkpoint / "model.safetensors", folder / "copy"]], repeats),
        measure("imatrix", [imatrix], tools and peer_imatrix(tools, base, calibration), repeats),
        measure(f"quantize, {len(MIXES)} types", [quantize], tools and peer_quantize(tools, base, importance), repeats),
        measure(
            f"evaluate, {len(MIXES)} files",
            [evaluate],
            tools and peer_evaluate(tools, base, files, evaluation),
            repeats,
        ),
    ]


def peer_imatrix(tools: Path, base: Path, text: Path) -> list[Command]:
    return [[tools / "llama-imatrix", "-m", base, "-f", text, "-o", base.parent / "peer-imatrix.gguf", "--no-repack"]]


def peer_quantize(tools: Path, base: Path, importance: Path) -> list[Command]:
    out = base.parent / "peer.gguf"
    return [[tools / "llama-quantize", "--imatrix", importance, base, out, mix] for mix in MIXES]


def peer_evaluate(tools: Path, base: Path, files: Sequence[Path], text: Path) -> list[Command]:
    """The base writes its logits, then each file is compared with them: what people run today."""
    tool, logits = tools / "llama-perplexity", base.parent / "logits"
    protocol = ("-f", text, "-c", "512", "--kl-divergence-base", logits, "--no-repack")
    compared = [[tool, "-m", file, *protocol, "--kl-divergence"] for file in files]
    return [[tool, "-m", base, *protocol], *compared]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=ROOT / "examples" / "demo-gemma3")
    parser.add_argument("--llama-cpp", type=Path, help="folder of llama.cpp's tools")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(options.checkpoint, options.llama_cpp, options.repeats, Path(folder))
    print(f"{'part':24} {'seconds':>8} {'peak MB':>8}  {'peer':22} {'seconds':>8} {'peak MB':>8} {'peer/ours':>10}")
    for row in found:
        peer = (
            f" {row.peer_name:22} {row.peer.seconds:8.2f} {row.peer.memory / 1e6:8.0f} {row.ratio:10.2f}"
            if row.peer
            else ""
        )
        print(f"{row.part:24} {row.ours.seconds:8.2f} {row.ours.memory / 1e6:8.0f} {peer}")
    if options.json:
        options.json.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in found], indent=2))


if __name__ == "__main__":
    main()
