"""llama.cpp's own converter, for the scripts that store what it makes: run here, because its parts are patched.

It recognises the pre-tokenizer of a byte-level vocabulary by a hash of ids, which only real vocabularies have; the tiny
ones are told theirs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf

from tests.convert.oracle import data_hash, kept

_RUN = """
import runpy, sys
script, pre = sys.argv[1:3]
sys.argv = [script, *sys.argv[3:]]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
# transformers 5 renames the kinds of layers that the converter looks for
from transformers import configuration_utils
configuration_utils._LEGACY_LAYER_TYPE_REMAP.clear()
configuration_utils.ALLOWED_ATTN_LAYER_TYPES += ("attention", "mamba")
runpy.run_path(script, run_name="__main__")
"""


def converted(llama_cpp: Path, folder: Path, out: Path, type_name: str, pre: str, *options: str) -> dict[str, Any]:
    """What it writes for a checkpoint: every key, every tensor with a hash of its data."""
    script = llama_cpp / "convert_hf_to_gguf.py"
    command = [sys.executable, "-c", _RUN, str(script), pre, str(folder), "--outtype", type_name, "--outfile", str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=llama_cpp)
    if done.returncode:
        sys.exit(f"{folder.name}: llama.cpp's converter failed\n{done.stderr[-3000:]}")
    return summary(out)


def summary(path: Path) -> dict[str, Any]:
    """A GGUF file as JSON."""
    reader = gguf.GGUFReader(path)
    metadata = {
        key: kept(field.types[0].name, field.types[1].name if len(field.types) > 1 else None, field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    tensors = [
        [tensor.name, [int(size) for size in tensor.shape], tensor.tensor_type.name, data_hash(tensor.data)]
        for tensor in reader.tensors
    ]
    return {"metadata": metadata, "tensors": tensors}
