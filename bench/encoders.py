"""Divergence with our encoder and with ggml's, at equal types: every mix of llama-quantize, on the bundled model.

    python -m bench.encoders --calibration TEXT --evaluation TEXT [--types Q4_K_M,IQ3_M] [--effort normal]
                             [--chunks 60] [--json FILE]

Both get the same importance matrix, of the whole calibration text: of a short one it is noisy, and an encoder that
minimises what it says follows the noise. Mean KL divergence from the unquantized model with its standard error, as
`quantpress evaluate` gives it, and the geometric mean of the ratios. Two encoders round differently, which alone moves
the divergence of so small a model by a few percent at two and three bits: look at all mixes together.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

from quantpress.codec import EFFORTS
from quantpress.convert import convert
from quantpress.evaluate import Evaluation, evaluate
from quantpress.imatrix import imatrix
from quantpress.quantize import quantize
from quantpress.recipes import MIXES, RECIPES

ROOT = Path(__file__).parents[1]
FLOATS = ("F32", "F16", "BF16")
ONLY_GGML = ("Q1_0", "Q2_0", "NVFP4")  # types that our encoder does not know


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--types", help="mixes; default all")
    parser.add_argument("--effort", default="normal", choices=EFFORTS)
    parser.add_argument("--chunks", type=int, default=60, help="windows of the evaluation text")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = [name for name in RECIPES if name in MIXES and name not in (*FLOATS, *ONLY_GGML)]
    rows = measure(given, given.types.split(",") if given.types else names)
    print(table(rows))
    if given.json:
        found = {name: [side.to_dict() for side in sides] for name, sides in rows.items()}
        given.json.write_text(json.dumps(found, indent=2))


def measure(given: argparse.Namespace, names: list[str]) -> dict[str, tuple[Evaluation, Evaluation]]:
    """(ggml's, ours) by mix."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = convert(ROOT / "examples" / "demo-gemma3", folder / "demo-gemma3-BF16.gguf")
        importance = imatrix(base, text=given.calibration, out=folder / "imatrix.gguf")
        files = quantize(base, types=names, imatrix=importance, encoder="ggml", out=folder / "ggml")
        files += quantize(base, types=names, imatrix=importance, effort=given.effort, out=folder / "quantpress")
        found = evaluate(base, files, text=given.evaluation, chunks=given.chunks)
    return dict(zip(names, zip(found[: len(names)], found[len(names) :], strict=True), strict=True))


def table(rows: dict[str, tuple[Evaluation, Evaluation]]) -> str:
    lines = [f"{'':9} {'ggml':>22}  {'quantpress':>22}  ratio  99 %: ratio"]
    for name, (theirs, ours) in rows.items():
        ratio, tail = ours.kld_mean / theirs.kld_mean, ours.kld_p99 / theirs.kld_p99
        sides = [f"{side.kld_mean:.6f} ± {side.kld_error:.6f}" for side in (theirs, ours)]
        mark = " worse" if ratio > 1 else ""
        lines.append(f"{name:9} {sides[0]:>22}  {sides[1]:>22}  {ratio:.3f}        {tail:.3f}{mark}")
    mean = math.exp(sum(math.log(ours.kld_mean / theirs.kld_mean) for theirs, ours in rows.values()) / len(rows))
    lines.append(f"geometric mean of the ratios {mean:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
