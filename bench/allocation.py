"""Automatic plans against the stock mixes at the same bytes: KL divergence on held-out text, for a model and texts.

    python -m bench.allocation --model BF16.gguf --calibration TEXT --search TEXT --held-out TEXT
                               [--mixes Q4_K_M,…] [--budget 4m] [--encoder quantpress] [--effort NAME] [--json FILE]

The stock mixes are encoded by ggml, as people have them, with an importance matrix of the calibration text as
llama-imatrix makes it; the plans by `--encoder`, with quantpress's, which covers the output too. Each plan may take as
many bytes as the mix, and is searched on its own, with what the searches before it have learnt. Then the plan's file is
written: its size must be the predicted one, to the byte, and its divergence is measured on the file. Inversions are
larger plans that are worse than a smaller one beyond both error bars.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from quantpress.allocation import Allocation, allocate, parse_spend, parse_target
from quantpress.encoding import COMPENSATED
from quantpress.evaluate import Evaluation, evaluate
from quantpress.imatrix import imatrix
from quantpress.progress import for_terminal
from quantpress.quantize import quantize

MIXES = "IQ2_M Q2_K IQ3_XXS IQ3_XS Q3_K_S IQ3_M Q3_K_M Q3_K_L IQ4_XS Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K MP".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--calibration", "--search", "--held-out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--mixes", default=",".join(MIXES))
    parser.add_argument(
        "--budget", default="4m", help="for each plan: a time, or a number of probes; 0: from errors alone"
    )
    parser.add_argument("--encoder", default="quantpress")
    parser.add_argument("--effort", default="normal", help="of the plans' encoder; compensated: with second moments")
    parser.add_argument("--imatrix-chunks", type=int, default=192)
    parser.add_argument("--search-chunks", type=int, default=16)
    parser.add_argument("--chunks", type=int, default=32, help="windows of the held-out text")
    parser.add_argument("--sensitivity", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(given, Path(name))
    report(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1, default=str))


def measure(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    names = given.mixes.split(",")
    settings = {"text": given.held_out, "chunks": given.chunks}
    usual, importance = (
        imatrix(
            given.model,
            text=given.calibration,
            out=folder / f"{name}.gguf",
            chunks=given.imatrix_chunks,
            process_output=output,
            moments=output and given.effort == COMPENSATED,
        )
        for name, output in (("usual", False), ("importance", True))
    )
    stock = quantize(given.model, types=names, imatrix=usual, encoder="ggml", out=folder / "stock")
    mixes = dict(zip(names, evaluate(given.model, stock, **settings), strict=True))
    sizes = {name: file.stat().st_size for name, file in zip(names, stock, strict=True)}
    rows = []
    for name in sorted(names, key=sizes.__getitem__):
        start = time.monotonic()
        found = plan(given, importance, name, folder)
        seconds = time.monotonic() - start
        how = {"encoder": given.encoder, "effort": given.effort, "allow_plain": True}
        file = quantize(given.model, plans=[found.plan], imatrix=importance, out=folder / "plans", **how)[0]
        if file.stat().st_size != found.plan.bytes:
            raise SystemExit(f"{name}: predicted {found.plan.bytes:,} bytes, found {file.stat().st_size:,}")
        own = evaluate(given.model, file, **settings)[0]
        rows.append(row(name, sizes[name], mixes[name], own, found, seconds))
        print(line(rows[-1]), flush=True)
    return rows


def plan(given: argparse.Namespace, importance: Path, mix: str, folder: Path) -> Allocation:
    return allocate(
        given.model,
        parse_target(f"like:{mix}"),
        imatrix=importance,
        text=given.search,
        held_out=given.held_out,
        budget=parse_spend(given.budget),
        encoder=given.encoder,
        effort=given.effort,
        sensitivity=given.sensitivity or folder / "sensitivity.json",
        search_chunks=given.search_chunks,
        gate_chunks=given.chunks,
        progress=for_terminal(quiet=True),
    )


def row(name: str, size: int, mix: Evaluation, own: Evaluation, found: Allocation, seconds: float) -> dict[str, Any]:
    gate = found.gate
    return {
        "mix": name,
        "bytes": size,
        "bits_per_weight": found.plan.bits_per_weight,
        "mix_kld": mix.kld_mean,
        "mix_p99": mix.kld_p99,
        "mix_own_encoder": gate.reference.kld_mean if gate and gate.reference else None,
        "kld": own.kld_mean,
        "error": own.kld_error,
        "ratio": own.kld_mean / mix.kld_mean,
        "tail": own.kld_p99 / mix.kld_p99,
        "extreme": own.kld_p999 / mix.kld_p999,
        "same_top": [mix.same_top, own.same_top],
        "passed": gate.passed if gate else None,
        "plain": gate.plain.kld_mean if gate and gate.plain else None,
        "left_plain": found.plan.plain,
        "plan_bytes": found.plan.bytes,
        "search_kld": found.measured,
        "predicted": found.predicted,
        "probes": found.probes,
        "seconds": seconds,
        "types": found.plan.tensors,
    }


def line(one: dict[str, Any]) -> str:
    gate = {True: "passed", False: "LOST", None: "none"}[one["passed"]]
    return (
        f"{one['mix']:8} {one['bits_per_weight']:5.2f}  mix {one['mix_kld']:.5f} (99 % {one['mix_p99']:.4f})  "
        f"plan {one['kld']:.5f} ± {one['error']:.5f}  ratio {one['ratio']:.3f}  99 % {one['tail']:.3f}  "
        f"99.9 % {one['extreme']:.3f}  gate {gate}  "
        f"{one['probes']} probes, {one['seconds']:.0f} s"
    )


def report(rows: list[dict[str, Any]]) -> None:
    stock = [one for one in rows if one["mix"] != "MP"]
    mean = math.exp(sum(math.log(one["ratio"]) for one in stock) / len(stock)) if stock else math.nan
    print(f"geometric mean over {len(stock)} stock mixes {mean:.3f}, worst {max(one['ratio'] for one in rows):.3f}")
    worse = [one["mix"] for one in rows if one["tail"] > 1]
    print(f"99th percentile above the mix's: {', '.join(worse) or 'none'}")
    pairs = combinations(sorted(rows, key=lambda one: one["plan_bytes"]), 2)
    inverted = [f"{b['mix']} after {a['mix']}" for a, b in pairs if b["kld"] - a["kld"] > a["error"] + b["error"]]
    print(f"inversions of the frontier: {', '.join(inverted) or 'none'}")
    print("every file has the predicted size")


if __name__ == "__main__":
    main()
