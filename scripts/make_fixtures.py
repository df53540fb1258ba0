"""Make the tiny checkpoints of tests/data/checkpoints, and ask transformers and llama.cpp's converter about them.

    pip install torch transformers accelerate sentencepiece
    PYTHONPATH=.:scripts:LLAMA_CPP/gguf-py:LLAMA_CPP python scripts/make_fixtures.py LLAMA_CPP VERSION [CASE ...]

LLAMA_CPP is a llama.cpp source folder, VERSION what to call it; without names all cases of scripts/fixtures are made.
A folder has the checkpoint without its tokenizer's files; `case.json`: which tokenizer, and the versions; `logits.npz`:
tokens, and the float32 logits of some positions (or `embeddings.npz`: their vectors, and the mean of all);
`oracle.json`: what llama.cpp's converter writes in BF16. For a model that sees also `mmproj.json`: the same for that
half, and `image.npz`: an image, and the vectors that its text half gets.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tests.convert.llama_cpp import converted

import fixtures
from fixtures.case import TOKENS, Case

DATA = Path(__file__).parents[1] / "tests" / "data"
LARGEST = 300_000  # bytes of a checkpoint


def cases() -> dict[str, Case]:
    modules = [importlib.import_module(f"fixtures.{found.name}") for found in pkgutil.iter_modules(fixtures.__path__)]
    return {name: case for module in modules for name, case in getattr(module, "CASES", {}).items()}


def save(case: Case, folder: Path) -> None:
    """A model of random weights, large enough that every part of it shows in the logits, in BF16."""
    config = transformers.AutoConfig.for_model(case.model_type, **{"vocab_size": TOKENS[case.tokenizer], **case.config})
    torch.manual_seed(0)
    kind = getattr(transformers, case.model_class) if case.model_class else transformers.AutoModelForCausalLM
    model = kind(config) if case.model_class else kind.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.ndim == 1 else 1.5 / weight.shape[-1] ** 0.5
            moved = spread * torch.randn_like(weight)
            weight.copy_(moved + 1 if weight.ndim == 1 and "norm" in name.lower() and weight.mean() > 0.5 else moved)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    case.edit(folder)


def logits(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """float32 logits [positions, vocabulary] of a random text, by the loaded checkpoint."""
    kind = getattr(transformers, case.model_class or "AutoModelForCausalLM")
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = np.random.default_rng(0).integers(3, TOKENS[case.tokenizer], case.positions)
    positions = np.unique(np.linspace(0, case.positions - 1, 5).astype(int))
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(tokens)[None]).logits[0, positions].float()
    return {"tokens": tokens.astype(np.int32), "positions": positions.astype(np.int32), "logits": found.numpy()}


def embeddings(case: Case, folder: Path) -> dict[str, np.ndarray]:
    """float32 vectors of some tokens [positions, hidden] of a random text, and the mean of all [hidden]."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = np.random.default_rng(0).integers(3, TOKENS[case.tokenizer], case.positions)
    positions = np.unique(np.linspace(0, case.positions - 1, 5).astype(int))
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(tokens)[None]).last_hidden_state[0].float()
    some = {"tokens": tokens.astype(np.int32), "positions": positions.astype(np.int32)}
    return {**some, "vectors": found[positions].numpy(), "mean": found.mean(0).numpy()}


def image(folder: Path) -> dict[str, np.ndarray]:
    """A random image, uint8 [height, width, 3], and the float32 vectors [tokens, hidden] that the text half gets.

    Its colours are -1 and 1 once they are scaled: llama.cpp's convolution rounds its input to F16.
    """
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    vision = model.config.vision_config
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    side = settings["size"]["height"]
    pixels = np.random.default_rng(0).integers(0, 2, (side, side, 3), np.uint8) * np.uint8(255)
    mean, spread = (torch.tensor(settings[key]) for key in ("image_mean", "image_std"))
    scaled = (torch.from_numpy(pixels) / 255 - mean) / spread
    if vision.model_type == "siglip_vision_model":
        inputs = {"pixel_values": scaled.permute(2, 0, 1)[None]}
    else:  # patches, colours innermost, and their places
        patch, count = vision.patch_size, side // vision.patch_size
        patches = scaled.reshape(count, patch, count, patch, 3).permute(0, 2, 1, 3, 4).reshape(1, count**2, -1)
        places = torch.stack(torch.meshgrid(torch.arange(count), torch.arange(count), indexing="xy"), -1)
        inputs = {"pixel_values": patches, "image_position_ids": places.reshape(1, -1, 2)}
    with torch.no_grad():
        found = model.model.get_image_features(**inputs).pooler_output
    one = found[0]  # of a tuple, or of a tensor with one more dimension
    return {"pixels": pixels, "vectors": one.reshape(-1, one.shape[-1]).numpy()}


REFERENCES = {"logits": logits, "embeddings": embeddings}


def make(name: str, case: Case, llama_cpp: Path, version: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        save(case, folder)
        reference = f"{case.reference}.npz"
        np.savez_compressed(Path(temporary) / reference, **REFERENCES[case.reference](case, folder))
        case.pack(folder)
        kept = {path.name for path in folder.iterdir()}
        if (size := (folder / "model.safetensors").stat().st_size) > LARGEST:
            sys.exit(f"{name}: {size} bytes, at most {LARGEST}")
        shutil.copytree(DATA / "tokenizers" / case.tokenizer, folder, dirs_exist_ok=True)
        oracle = converted(llama_cpp, folder, Path(temporary) / "out.gguf", "bf16", case.pre, *case.options)
        if case.mmproj:
            seeing = converted(llama_cpp, folder, Path(temporary) / "mmproj.gguf", "bf16", case.pre, "--mmproj")
            write(folder / "mmproj.json", seeing)
            np.savez_compressed(folder / "image.npz", **image(folder))
            kept |= {"mmproj.json", "image.npz"}
        out = DATA / "checkpoints" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        shutil.copy(Path(temporary) / reference, out / reference)
        for file in kept:
            (shutil.copytree if (folder / file).is_dir() else shutil.copy)(folder / file, out / file)
    about: dict[str, Any] = {
        "tokenizer": case.tokenizer,
        "llama.cpp": version,
        "transformers": transformers.__version__,
    }
    (out / "case.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write(out / "oracle.json", oracle)
    print(name, size, "bytes")


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    llama_cpp, version, known = Path(sys.argv[1]), sys.argv[2], cases()
    for name in sys.argv[3:] or known:
        make(name, known[name], llama_cpp, version)


if __name__ == "__main__":
    main()
