"""Ask llama-perplexity about the demo model and three quantized forms of it; keep the numbers that it prints.

    PYTHONPATH=src python scripts/make_perplexity_reference.py LLAMA_CPP_BIN

LLAMA_CPP_BIN is the folder of a llama.cpp build's programs. Writes tests/data/perplexity.json. `--no-repack` because
that is how the engine loads a model.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from quantpress.convert import convert

ROOT = Path(__file__).parents[1]
TEXT = Path("tests/data/prose.txt")
TYPES = ("Q8_0", "Q4_K_M", "Q2_K")
SETTINGS = f"-f {TEXT} -c 512 --chunks 4 -t 2 --no-repack --kl-divergence-base base.kld"

NUMBER = r"(-?[0-9.]+)"
ERROR = rf"{NUMBER} ± +{NUMBER}"
PRINTED = {
    "perplexity": rf"Mean PPL\(Q\) +: +{ERROR}",
    "base_perplexity": rf"Mean PPL\(base\) +: +{ERROR}",
    "kld_mean": rf"Mean +KLD: +{ERROR}",
    "kld_median": rf"Median +KLD: +{NUMBER}",
    "kld_p90": rf"90.0% +KLD: +{NUMBER}",
    "kld_p95": rf"95.0% +KLD: +{NUMBER}",
    "kld_p99": rf"99.0% +KLD: +{NUMBER}",
    "kld_p999": rf"99.9% +KLD: +{NUMBER}",
    "kld_max": rf"Maximum KLD: +{NUMBER}",
    "same_top": rf"Same top p: +{ERROR}",
    "rms_dp": rf"RMS Δp +: +{ERROR}",
}
PERCENT = {"same_top", "rms_dp"}


def run(program: Path, arguments: str, folder: Path) -> str:
    arguments = re.sub(r"\S+\.(gguf|kld)\b", lambda name: str(folder / name[0]), arguments)
    done = subprocess.run([str(program), *arguments.split()], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def printed(output: str) -> dict[str, list[float]]:
    """Of each number the value and, where it is printed, the error; percents as fractions."""
    found = {}
    for key, pattern in PRINTED.items():
        match = re.search(pattern, output)
        if match is None:
            sys.exit(f"llama-perplexity printed no {key}:\n{output}")
        found[key] = [float(number) / (100 if key in PERCENT else 1) for number in match.groups()]
    return found


def main() -> None:
    programs = Path(sys.argv[1])
    perplexity, quantize = programs / "llama-perplexity", programs / "llama-quantize"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert(ROOT / "examples" / "demo-gemma3", folder / "BF16.gguf")
        version = " ".join(run(perplexity, "--version", folder).split())
        run(perplexity, f"-m BF16.gguf {SETTINGS}", folder)
        for name in TYPES:
            run(quantize, f"BF16.gguf {name}.gguf {name}", folder)
            found[name] = printed(run(perplexity, f"-m {name}.gguf {SETTINGS} --kl-divergence", folder))
    facts = {
        "llama.cpp": version,
        "commands": [
            f"llama-perplexity -m BF16.gguf {SETTINGS}",
            "llama-quantize BF16.gguf TYPE.gguf TYPE",
            f"llama-perplexity -m TYPE.gguf {SETTINGS} --kl-divergence",
        ],
    }
    out = ROOT / "tests" / "data" / "perplexity.json"
    out.write_text(json.dumps({**facts, "printed": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
