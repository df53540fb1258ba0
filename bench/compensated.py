"""Compensated encoding against plain, at the same bytes: KL divergence on held-out text, for a model and texts.

    python -m bench.compensated --model BF16.gguf --calibration TEXT --held-out TEXT [--held-out TEXT …]
                                [--types Q4_K,…] [--files-only] [--repair N] [--json FILE]

Every block matrix has the type, embedding and output stay as they are. Encoded by ggml and by quantpress with the
importance matrix, and by quantpress with second moments, all of the same text. The held-out texts may be of other
domains. "weights": the same with the decoded weights in float, so without what llama.cpp's CPU back end does to the
activations that meet a quantized weight: that adds to the divergence of every encoder, and none can change it.
With --repair also the compensated file encoded anew behind its own layers, by so many chunks of the same text.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import gguf
from quantpress.encoding import decode
from quantpress.evaluate import Evaluation, evaluate
from quantpress.formats import TYPES
from quantpress.imatrix import imatrix
from quantpress.moments import beside
from quantpress.plan import Plan, from_types
from quantpress.quantize import quantize
from quantpress.repair import repair

USED = "Q2_K Q3_K IQ4_NL Q4_K Q5_K Q6_K IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_XS Q4_0".split()
ENCODERS = {"ggml": {"encoder": "ggml"}, "plain": {}, "compensated": {"effort": "compensated", "allow_plain": True}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--calibration"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--held-out", type=Path, action="append", required=True)
    parser.add_argument("--types", default=",".join(USED))
    parser.add_argument("--imatrix", type=Path, help="made before, with moments beside it; default: made here")
    parser.add_argument("--imatrix-chunks", type=int, default=192)
    parser.add_argument("--chunks", type=int, default=32, help="windows of each held-out text")
    parser.add_argument("--files-only", action="store_true", help="leave out the weights in float")
    parser.add_argument("--repair", type=int, default=0, metavar="N", help="chunks of the calibration text")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = list(measure(given, Path(name)))
    report(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


def measure(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    statistics = given.imatrix or imatrix(
        given.model, text=given.calibration, out=folder / "I.gguf", chunks=given.imatrix_chunks, moments=True
    )
    if not beside(statistics).exists():
        raise SystemExit(f"{beside(statistics)}: expected moments beside the imatrix")
    for type in given.types.split(","):
        files = {name: encoded(given.model, type, statistics, folder / name, how) for name, how in ENCODERS.items()}
        if given.repair:
            how = {"text": given.calibration, "imatrix": statistics, "chunks": given.repair}
            out = folder / f"repaired-{type}.gguf"
            files["repaired"], _ = repair(given.model, files["compensated"], out=out, **how)
        kinds = {"file": files}
        if not given.files_only:
            kinds["weights"] = {name: decoded(file, folder / f"{name}-{type}-F32.gguf") for name, file in files.items()}
        if len({file.stat().st_size - len(header(file)) for file in files.values()}) > 1:
            raise SystemExit(f"{type}: the files differ in size by more than their headers")
        for text in given.held_out:
            settings = {"text": text, "chunks": given.chunks}
            for what, group in kinds.items():
                found = evaluate(given.model, list(group.values()), **settings)
                row = {"type": type, "text": text.name, "what": what, **numbers(dict(zip(group, found, strict=True)))}
                print(line(row), flush=True)
                yield row
        for file in (file for group in kinds.values() for file in group.values()):
            file.unlink()


def header(file: Path) -> bytes:
    """All before the tensors' data, which has other keys for other encoders."""
    with gguf.read(file) as found:
        start = min(tensor.offset for tensor in found.tensors.values())
    with file.open("rb") as source:
        return source.read(start)


def encoded(model: Path, type: str, statistics: Path, out: Path, how: dict[str, Any]) -> Path:
    return quantize(model, plans=[uniform(model, type)], imatrix=statistics, out=out, **how)[0]


def uniform(model: Path, type: str) -> Plan:
    """Every block matrix in a type."""
    with gguf.read(model) as source:
        types = {
            name: TYPES[type] if name.startswith("blk.") and len(one.shape) > 1 else one.type
            for name, one in source.tensors.items()
        }
        return from_types(source, types, recipe=type, file_type=0)


def decoded(file: Path, out: Path) -> Path:
    """The same weights in F32."""
    with gguf.read(file) as source:
        quantized = {name for name, one in source.tensors.items() if one.type.quantized}
        specs = [
            gguf.TensorSpec(name, one.shape, TYPES["F32"] if name in quantized else one.type)
            for name, one in source.tensors.items()
        ]
        with gguf.Writer(out, source.metadata, specs) as writer:
            for name, one in source.tensors.items():
                data = source.data(name)
                values = decode(data, one.type, one.cols).view(np.uint8) if name in quantized else data
                writer.write(name, 0, values.reshape(len(data), -1))
    return out


def numbers(found: dict[str, Evaluation]) -> dict[str, Any]:
    ggml, ours = found["ggml"], found["compensated"]
    return {
        "kld": {name: one.kld_mean for name, one in found.items()},
        "error": {name: one.kld_error for name, one in found.items()},
        "ratio": ours.kld_mean / ggml.kld_mean,
        "to_plain": ours.kld_mean / found["plain"].kld_mean,
        **({"repaired": found["repaired"].kld_mean / ours.kld_mean} if "repaired" in found else {}),
        "tail": ours.kld_p99 / ggml.kld_p99,
        "perplexity": {name: one.perplexity for name, one in found.items()},
    }


def line(row: dict[str, Any]) -> str:
    kld = "  ".join(f"{name} {value:.5f} ± {row['error'][name]:.5f}" for name, value in row["kld"].items())
    where = f"{row['type']:8} {row['text']:16} {row['what']:8}"
    more = f"; repaired to compensated {row['repaired']:.3f}" if "repaired" in row else ""
    return f"{where} {kld}  ratio {row['ratio']:.3f} (99 % {row['tail']:.3f}; to plain {row['to_plain']:.3f}{more})"


def report(rows: Sequence[dict[str, Any]]) -> None:
    def kind(row: dict[str, Any]) -> tuple[str, str]:
        return row["text"], row["what"]

    for (text, what), group in groupby(sorted(rows, key=kind), key=kind):
        ratios = {row["type"]: row["ratio"] for row in group}
        mean, worst = math.exp(sum(map(math.log, ratios.values())) / len(ratios)), max(ratios, key=ratios.__getitem__)
        print(f"{text}, {what}: geometric mean {mean:.3f} of ggml's, worst {worst} {ratios[worst]:.3f}")


if __name__ == "__main__":
    main()
