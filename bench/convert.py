"""Conversion of a large synthetic checkpoint against a copy of its weights, on the same machine, in turn.

    python -m bench.convert [--gb 8] [--repeats 3] [--folder DIR]

A Llama of random BF16 weights in shards of 2 GB. The copy is `cp` and `sync`, as our files are on the disk when the
command ends; both read a source that lies in the page cache, if it fits. Times and peak resident memory of a fresh
process each: medians. DIR, which needs room for twice the size, is by default the system's temporary folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench.release import QUANTPRESS, Row, measure

TOKENIZER = Path(__file__).parents[1] / "tests" / "data" / "tokenizers" / "sentencepiece"
HIDDEN, FEED_FORWARD, VOCABULARY, HEADS = 4096, 14336, 512, 32
SHARD = 2e9
_WRITE = """
import sys
from pathlib import Path
from bench.convert import write_checkpoint
write_checkpoint(Path(sys.argv[1]), float(sys.argv[2]))
"""


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for number in range(layers):
        layer = f"model.layers.{number}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}{name}.weight", (HIDDEN,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}self_attn.{name}.weight", (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            yield f"{layer}mlp.{name}.weight", (FEED_FORWARD, HIDDEN)
        yield f"{layer}mlp.down_proj.weight", (HIDDEN, FEED_FORWARD)
    yield "model.norm.weight", (HIDDEN,)


def write_checkpoint(folder: Path, size: float) -> None:
    """About `size` bytes of weights."""
    layers = round(size / 2 / sum(math.prod(shape) for name, shape in shapes(1) if ".0." in name))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    shutil.copytree(TOKENIZER, folder)
    (folder / "config.json").write_text(json.dumps(config))
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes(layers):
        if 2 * sum(map(math.prod, shards[-1].values())) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    files = [f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        write_shard(folder / file, shard)
    index = {"weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    header, position = {}, 0
    for name, shape in tensors.items():
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    draw = np.random.default_rng(0).standard_normal(1 << 24, np.float32) * np.float32(0.02)
    block = (draw.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, position, len(block)):
            file.write(block[: position - start])


def convert_and_copy(folder: Path, size: float, repeats: int) -> Row:
    checkpoint, copy = folder / "synthetic", folder / "copy"
    # in a process of its own: a child's peak counts what its parent held
    subprocess.run([sys.executable, "-c", _WRITE, checkpoint, str(size)], check=True)
    os.sync()
    shards = sorted(checkpoint.glob("*.safetensors"))
    ours = [*QUANTPRESS, "convert", checkpoint, folder / "synthetic-BF16.gguf", "--quiet"]
    theirs = ["sh", "-c", 'rm -rf "$0" && mkdir "$0" && cp "$@" "$0" && sync "$0"/*', copy, *shards]
    return measure("convert", [ours], [theirs], repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        row = convert_and_copy(Path(folder), given.gb * 1e9, given.repeats)
    if row.peer is None:
        sys.exit("nothing to compare with")
    print(f"{given.gb:g} GB       seconds  peak MB")
    print(f"convert     {row.ours.seconds:8.2f} {row.ours.memory / 1e6:8.0f}")
    print(f"cp and sync {row.peer.seconds:8.2f} {row.peer.memory / 1e6:8.0f}")
    print(f"convert / cp {row.ours.seconds / row.peer.seconds:.2f} (target 1.5)")


if __name__ == "__main__":
    main()
