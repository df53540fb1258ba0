"""Small models with weights that are hard on encoders: heavy tails, empty blocks, tiny values. And their importance."""

from __future__ import annotations

from pathlib import Path

import gguf as oracle
import numpy as np

from quantpress.arrays import Bytes
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import GGUF, TensorSpec, Value, Writer, read
from quantpress.imatrix import Imatrix, write

Shapes = dict[str, tuple[int, ...]]

# Rows of 256 fit every type, of 96 the types with blocks of 32, of 80 none: they become F16.
DENSE: Shapes = {
    "token_embd.weight": (256, 40),
    "output_norm.weight": (256,),
    "output.weight": (256, 40),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.attn_q.weight": (256, 48),
    "blk.0.attn_k.weight": (512, 17),
    "blk.0.attn_v.weight": (256, 16),
    "blk.0.attn_output.weight": (80, 64),
    "blk.0.ffn_gate.weight": (256, 64),
    "blk.0.ffn_up.weight": (256, 64),
    "blk.0.ffn_down.weight": (256, 64),
    "blk.1.attn_q.weight": (256, 16),
    "blk.1.attn_v.weight": (256, 16),
    "blk.1.ffn_down.weight": (96, 64),
}
MIXTURE: Shapes = {
    "token_embd.weight": (256, 40),
    "output.weight": (256, 40),
    "blk.0.attn_v.weight": (256, 16),
    "blk.0.ffn_gate_inp.weight": (256, 8),
    "blk.0.ffn_gate_exps.weight": (256, 13, 8),
    "blk.0.ffn_up_exps.weight": (256, 13, 8),
    "blk.0.ffn_down_exps.weight": (256, 9, 8),
}
KEYS = {
    "context_length": 512,
    "embedding_length": 256,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


def save(
    path: Path, shapes: Shapes = DENSE, type: str = "BF16", split_bytes: int | None = None, layers: int = 2
) -> Path:
    """A model without a vocabulary: enough for llama-quantize. Vectors are F32. The path of the first part."""
    metadata = {"general.architecture": Value.string("llama"), "general.name": Value.string("Tiny")}
    metadata |= {f"llama.{key}": Value.u32(value) for key, value in KEYS.items()}
    metadata["llama.block_count"] = Value.u32(layers)
    metadata["llama.attention.layer_norm_rms_epsilon"] = Value.f32(1e-5)
    if shapes is MIXTURE:
        metadata |= {"llama.expert_count": Value.u32(8), "llama.expert_used_count": Value.u32(2)}
    specs = [TensorSpec(name, shape, TYPES["F32" if len(shape) == 1 else type]) for name, shape in shapes.items()]
    with Writer(path, metadata, specs, split_bytes) as writer:
        for number, spec in enumerate(specs):
            writer.write(spec.name, 0, encoded(weights(number, spec.rows, spec.shape[0]), spec.type))
    return writer.paths[0]


def weights(seed: int, rows: int, cols: int) -> np.ndarray:
    """float32 [rows, cols]."""
    draw = np.random.default_rng(seed)
    x = (0.02 * draw.standard_t(3, (rows, cols))).astype(np.float32)
    x[0, : cols // 2] = 0  # blocks without a weight
    x[1 % rows, ::3] = 0
    x[2 % rows] *= np.float32(1e-30)
    x[3 % rows] = np.abs(x[3 % rows])
    x[4 % rows] = x[4 % rows, 0]
    return x


def encoded(x: np.ndarray, type: TensorType) -> Bytes:
    """Rows in a float type."""
    return np.asarray(oracle.quants.quantize(x, oracle.GGMLQuantizationType[type.name])).view(np.uint8)


def importance(model: Path, path: Path, *, embedding: bool = True, seed: int = 0) -> Imatrix:
    """An imatrix file for the matrices of a model, with columns that are always 0 and an expert that was never used."""
    draw = np.random.default_rng(seed)
    sums, counts = {}, {}
    with read(model) as source:
        for name, tensor in source.tensors.items():
            if len(tensor.shape) == 1 or (name == "token_embd.weight" and not embedding):
                continue
            found = (100 * draw.exponential(size=(tensor.matrices, tensor.cols)) ** 3).astype(np.float32)
            found[:, 5::31] = 0
            sums[name], counts[name] = found, draw.integers(1, 99, tensor.matrices)
            if tensor.matrices > 1:
                found[2], counts[name][2] = 0, 0
    write(Imatrix(sums, counts, ("text.txt",), 10, 512), path)
    return Imatrix(sums, counts, ("text.txt",), 10, 512, path)


def values(imatrix: Imatrix, model: GGUF) -> dict[str, np.ndarray]:
    """What llama-quantize makes of an imatrix file: sum / count, and 1 for a matrix that saw no token."""
    found = {}
    for name in imatrix.names:
        rows = zip(imatrix.sums[name], imatrix.counts[name], strict=True)
        found[name] = np.stack([row / np.float32(n) if n else np.ones_like(row) for row, n in rows])
    return {name: one for name, one in found.items() if name in model.tensors}


def differing(ours: Path, theirs: Path) -> list[str]:
    """The tensors whose type or bytes are not the same in two files that have the same tensors."""
    with read(ours) as a, read(theirs) as b:
        assert a.tensors.keys() == b.tensors.keys()
        same = {name for name in a.tensors if a.tensors[name].type == b.tensors[name].type}
        return [name for name in a.tensors if name not in same or not np.array_equal(a.data(name), b.data(name))]
