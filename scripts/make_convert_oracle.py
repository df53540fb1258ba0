"""Ask llama.cpp's own converter, and transformers, about the checkpoints of tests/checkpoints.py; keep the answers.

    pip install torch transformers sentencepiece
    PYTHONPATH=.:LLAMA_CPP/gguf-py python scripts/make_convert_oracle.py LLAMA_CPP VERSION

LLAMA_CPP is a llama.cpp source folder, VERSION what to call it. Writes tests/data/convert-oracle.json (metadata, and
tensors' names, shapes, types and hashes) and tests/data/convert-logits.npz (float32 logits of the variant with what is
unusual in its configuration).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.checkpoints import VARIANTS
from tests.convert.llama_cpp import converted
from tests.convert.oracle import CASES, FILE, LOGITS

DATA = Path(__file__).parents[1] / "tests" / "data"


def logits(folder: Path) -> dict[str, np.ndarray]:
    """float32 logits [positions, vocabulary] by transformers of 48 tokens, thrice the sliding window."""
    model = transformers.Gemma3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokens = (np.arange(48, dtype=np.int64) * 97 + 2) % 4096
    positions = np.array([0, 20, 33, 47])
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(tokens)[None]).logits[0, positions]
    return {"tokens": tokens.astype(np.int32), "positions": positions.astype(np.int32), "logits": found.numpy()}


def main() -> None:
    llama_cpp, version = Path(sys.argv[1]), sys.argv[2]
    found: dict[str, Any] = {"llama.cpp": version, "transformers": transformers.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        for name, types in CASES.items():
            folder = VARIANTS[name](Path(temporary) / name)
            for type_name in types:
                out = Path(temporary) / "out.gguf"
                # SentencePiece: the name of a pre-tokenizer is not asked for
                found[f"{name} {type_name}"] = converted(llama_cpp, folder, out, type_name.lower(), "")
            if name == "older-style":
                np.savez_compressed(DATA / LOGITS, **logits(folder))
    (DATA / FILE).write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
