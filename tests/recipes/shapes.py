"""Models without weights: headers of real shapes, in sparse files that read as zeros and take no disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, ValueType, layout
from quantpress.gguf.layout import encode_header

Shapes = dict[str, tuple[int, ...]]
NOTHING: Mapping[str, Any] = MappingProxyType({})


def write(
    path: Path, architecture: str, shapes: Shapes, keys: Mapping[str, Any], extra: Mapping[str, Value] = NOTHING
) -> Path:
    """A file with BF16 matrices and F32 vectors; `keys` are the architecture's numbers."""
    values = {"general.architecture": Value.string(architecture), "general.name": Value.string(path.stem)}
    values |= {f"{architecture}.{key}": _value(value) for key, value in keys.items()} | dict(extra)
    specs = [TensorSpec(name, shape, TYPES["F32" if len(shape) == 1 else "BF16"]) for name, shape in shapes.items()]
    with path.open("wb") as file:
        file.write(encode_header(values, specs))
    os.truncate(path, layout(values, specs).file_bytes)
    return path


def _value(value: Any) -> Value:
    if isinstance(value, list):
        return Value.array(ValueType.UINT32, value)
    return Value.f32(value) if isinstance(value, float) else Value.u32(value)


def gemma3_4b(path: Path, *, vocabulary: bool = False) -> Path:
    """Gemma 3 4B's text half: 34 layers, tied embeddings; on request with a vocabulary as large as the real one."""
    shapes: Shapes = {"token_embd.weight": (2560, 262144), "output_norm.weight": (2560,)}
    for block in blocks(34):
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= {f"{block}{norm}.weight": (2560,) for norm in norms}
        shapes |= {f"{block}attn_{head}_norm.weight": (256,) for head in "qk"}
        shapes |= attention(block, 2560, heads=8, kv_heads=4, size=256) | ffn(block, 2560, 10240)
    keys = sizes(layers=34, hidden=2560, ffn=10240, heads=8, kv_heads=4)
    keys |= {"attention.key_length": 256, "attention.value_length": 256, "attention.sliding_window": 1024}
    return write(path, "gemma3", shapes, keys, pieces(262144) if vocabulary else NOTHING)


def pieces(count: int) -> dict[str, Value]:
    """A vocabulary of made-up pieces of 9 bytes each: the mean of Gemma 3's, whose tokenizer.model has 4.69 MB."""
    letters = map("".join, itertools.product("abcdefghijkl", repeat=6))
    return {
        "tokenizer.ggml.model": Value.string("llama"),
        "tokenizer.ggml.tokens": Value.array(ValueType.STRING, [f"▁{next(letters)}" for _ in range(count)]),
        "tokenizer.ggml.scores": Value.array(ValueType.FLOAT32, -np.arange(count, dtype=np.float32)),
        "tokenizer.ggml.token_type": Value.array(ValueType.INT32, np.ones(count, np.int32)),
    }


def llama(
    path: Path, *, architecture: str = "llama", layers: int = 32, hidden: int = 4096, ffn_size: int = 14336,
    heads: int = 32, kv_heads: int = 8, vocabulary: int = 128256, tied: bool = False,
    other: Mapping[str, Any] = NOTHING,
) -> Path:  # fmt: skip
    """Llama 3 8B, or what the numbers say; `other` keys win."""
    shapes = {"token_embd.weight": (hidden, vocabulary), "output_norm.weight": (hidden,)}
    shapes |= {} if tied else {"output.weight": (hidden, vocabulary)}
    for block in blocks(layers):
        shapes |= {f"{block}{norm}.weight": (hidden,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= attention(block, hidden, heads=heads, kv_heads=kv_heads, size=hidden // heads)
        shapes |= ffn(block, hidden, ffn_size)
    keys = sizes(layers=layers, hidden=hidden, ffn=ffn_size, heads=heads, kv_heads=kv_heads)
    return write(path, architecture, shapes, keys | {"vocab_size": vocabulary} | dict(other))


def mixture(
    path: Path, *, architecture: str, layers: int, hidden: int, expert: int, experts: int, heads: int, kv_heads: int,
    size: int = 128, shared: int = 0,
) -> Path:  # fmt: skip
    """A mixture of experts with the experts of a layer stacked; `shared`: the size of one that every token passes."""
    shapes: Shapes = {"token_embd.weight": (hidden, 32000), "output.weight": (hidden, 32000)}
    for block in blocks(layers):
        shapes |= attention(block, hidden, heads=heads, kv_heads=kv_heads, size=size)
        shapes |= {f"{block}ffn_gate_inp.weight": (hidden, experts), f"{block}attn_norm.weight": (hidden,)}
        stacked = ffn(block, hidden, expert, "_exps")
        shapes |= {name: (*shape, experts) for name, shape in stacked.items()}
        shapes |= ffn(block, hidden, shared, "_shexp") if shared else {}
    keys = sizes(layers=layers, hidden=hidden, ffn=expert, heads=heads, kv_heads=kv_heads)
    keys |= {"expert_count": experts, "expert_used_count": 2, "expert_feed_forward_length": expert}
    keys |= {"attention.key_length": size, "attention.value_length": size, "rope.dimension_count": size}
    return write(path, architecture, shapes, keys)


def falcon(path: Path) -> Path:
    """Falcon 40B's way, with fewer layers: one fused attention tensor a layer and no gate."""
    shapes: Shapes = {"token_embd.weight": (8192, 65024), "output.weight": (8192, 65024), "output_norm.weight": (8192,)}
    for block in blocks(40):
        shapes |= {f"{block}attn_qkv.weight": (8192, 9216), f"{block}attn_output.weight": (8192, 8192)}
        shapes |= {f"{block}ffn_up.weight": (8192, 32768), f"{block}ffn_down.weight": (32768, 8192)}
        shapes |= {f"{block}attn_norm.{part}": (8192,) for part in ("weight", "bias")}
    keys = sizes(layers=40, hidden=8192, ffn=32768, heads=128, kv_heads=8)
    return write(path, "falcon", shapes, keys | {"attention.layer_norm_epsilon": 1e-5})


def gemma4_31b(path: Path) -> Path:
    """The dense matrices of Gemma 4 31B: every sixth layer global with larger heads and without a value tensor."""
    shapes: Shapes = {"token_embd.weight": (5376, 262144), "output_norm.weight": (5376,)}
    for layer, block in enumerate(blocks(60)):
        if layer % 6 == 5:
            shapes |= attention(block, 5376, heads=32, kv_heads=4, size=512)
            del shapes[f"{block}attn_v.weight"]
        else:
            shapes |= attention(block, 5376, heads=32, kv_heads=16, size=256)
        shapes |= ffn(block, 5376, 21504)
    return write(path, "gemma4", shapes, sizes(layers=60, hidden=5376, ffn=21504, heads=32, kv_heads=16))


def zoo(path: Path, architecture: str, *, layers: int = 16) -> Path:
    """Matrices of every kind that llama.cpp has an opinion of, in an architecture that has some of its own."""
    square, experts = (512, 512), (512, 512, 8)
    outside = (
        "output token_embd per_layer_token_embd position_embd token_types per_layer_model_proj altup_proj v.patch_embd"
    )
    inside = (
        "attn_q attn_k attn_v attn_qkv attn_output attn_q_a attn_q_b attn_kv_a_mqa attn_kv_b attn_rel_b attn_sub_norm "
        "attn_q_norm ffn_up ffn_gate ffn_down ffn_gate_inp ffn_gate_tid2eid ffn_up_shexp ffn_down_shexp ffn_gate_shexp "
        "laurel_l altup_router inp_gate ssm_in ssm_out ssm_conv1d ssm_f_a ssm_g_b ssm_beta shortconv.conv "
        "shortconv.in_proj "
        "time_mix_w1 time_mix_key time_mix_decay_w2 time_mix_lerp_fused indexer.k_proj indexer.proj indexer.attn_q_b "
        "nextn.eh_proj hc_attn indexer_compressor_gate"
    )
    shapes: Shapes = {f"{name}.weight": square for name in outside.split()}
    for block in blocks(layers):
        shapes |= {f"{block}{name}.weight": square for name in inside.split()}
        shapes |= {
            f"{block}{name}.weight": experts for name in "attn_k_b attn_v_b ffn_down_exps ffn_gate_up_exps".split()
        }
        shapes |= {f"{block}ssm_a": square, f"{block}attn_q.bias": (512,), f"{block}ssm_d.weight": (512, 1)}
    keys = sizes(layers=layers, hidden=512, ffn=512, heads=8, kv_heads=2) | _ZOO_KEYS
    return write(path, architecture, shapes, keys, {f"{architecture}.kda.safe_gate": Value.bool_(True)})


_ZOO_KEYS = {  # what some of the architectures insist on
    "expert_count": 16,
    "expert_used_count": 2,
    "expert_feed_forward_length": 512,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
    "nextn_predict_layers": 1,
    "num_loops": 2,
    "attention.layer_norm_epsilon": 1e-6,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 64,
    "attention.q_lora_rank": 512,
    "attention.kv_lora_rank": 512,
    "attention.sliding_window": 512,
    "attention.indexer.head_count": 8,
    "attention.indexer.key_length": 64,
    "attention.indexer.top_k": 64,
    "attention.indexer.kpool": 2,
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 4,
    "hyper_connection.epsilon": 1e-6,
    "ssm.conv_kernel": 4,
    "kda.head_dim": 64,
    "kda.gate_lower_bound": -5.0,
    "logit_scale": 1.0,
    "adapters.count": 1,
    "adapters.lora_rank": 8,
    "adapters.token_ids_activate": [1],
    "adapters.token_ids_substitute": [2],
}


def blocks(count: int) -> list[str]:
    """The prefixes of the layers."""
    return [f"blk.{layer}." for layer in range(count)]


def sizes(*, layers: int, hidden: int, ffn: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """The keys that llama.cpp wants of nearly every architecture."""
    return {
        "context_length": 8192,
        "embedding_length": hidden,
        "block_count": layers,
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }


def attention(block: str, hidden: int, *, heads: int, kv_heads: int, size: int) -> Shapes:
    """The four projections of a layer."""
    return {
        f"{block}attn_q.weight": (hidden, heads * size),
        f"{block}attn_k.weight": (hidden, kv_heads * size),
        f"{block}attn_v.weight": (hidden, kv_heads * size),
        f"{block}attn_output.weight": (heads * size, hidden),
    }


def ffn(block: str, hidden: int, size: int, suffix: str = "") -> Shapes:
    """Gate, up and down."""
    return {
        f"{block}ffn_gate{suffix}.weight": (hidden, size),
        f"{block}ffn_up{suffix}.weight": (hidden, size),
        f"{block}ffn_down{suffix}.weight": (size, hidden),
    }
