"""Makes tests/data/imatrix: what the real llama-imatrix collects from tests/data/prose.txt, for tests to compare with.

    python scripts/make_imatrix_reference.py path/to/llama-imatrix

The models are the bundled checkpoint as F32 and the tiny mixture of experts of tests/imatrix/moe.py.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.imatrix.moe import write_moe  # noqa: E402

from quantpress.convert import convert  # noqa: E402

DATA = ROOT / "tests" / "data"
COMMANDS = {
    "demo.gguf": "-m demo.gguf -f prose.txt -o out/demo.gguf",
    "demo.dat": "-m demo.gguf -f prose.txt -o out/demo.dat --output-format dat",
    "moe.gguf": "-m moe.gguf -f prose.txt -o out/moe.gguf -c 128 --chunks 16 --process-output",
    "merged.gguf": "-m demo.gguf --in-file out/demo.gguf,out/demo.dat -o out/merged.gguf",
    "demo.txt": "-m demo.gguf --in-file out/demo.gguf --show-statistics",
    "moe.txt": "-m demo.gguf --in-file out/moe.gguf --show-statistics",
}


def main() -> None:
    program = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        shutil.copy(DATA / "prose.txt", folder)
        convert(ROOT / "examples" / "demo-gemma3", folder / "demo.gguf", type="F32")
        write_moe(folder / "moe.gguf")
        logs = {out: run(program, arguments, folder) for out, arguments in COMMANDS.items() if "show" not in arguments}
        for out in ("demo.txt", "moe.txt"):
            (folder / "out" / out).write_text(statistics(program, COMMANDS[out], folder), encoding="utf-8")
        facts = {
            "program": "llama-imatrix",
            "version": run(program, "--version", folder).splitlines()[0],
            "system": re.search(r"(CPU : .*?) \|\s*$", logs["demo.gguf"], re.MULTILINE)[1],
            "commands": COMMANDS,
        }
        (folder / "out" / "reference.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        shutil.copytree(folder / "out", DATA / "imatrix", dirs_exist_ok=True)


def statistics(program: Path, arguments: str, folder: Path) -> str:
    """The table; the program often ends before its log is written, so it is asked again until all is there."""
    while True:
        found = run(program, arguments, folder)
        announced = re.search(r"\((\d+) tensors\)", found)
        rows = [line for line in found.splitlines() if line.count("\t") == 12 and "Layer" not in line]
        if announced and len(rows) == int(announced[1]):
            return "\n".join(rows) + "\n"


def run(program: Path, arguments: str, folder: Path) -> str:
    """Standard output and error, without the time stamps; raises CalledProcessError."""
    command = [str(program), *arguments.split()]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return re.sub(r"^[\d.]+ [A-Z] ", "", done.stdout, flags=re.MULTILINE)


if __name__ == "__main__":
    main()
