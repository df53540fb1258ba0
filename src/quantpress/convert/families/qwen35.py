"""Qwen 3.5 and 3.6, dense and MoE: three layers of linear attention (gated delta net), then one of full attention.

Where several value heads share a key head, transformers has those of one key head side by side; llama.cpp repeats the
key heads as a whole, so it wants the first value heads of all key heads, then the second ones, and so on. Norms are
stored as the difference from 1, but that of the linear attention. Images, and the layers for the prediction of further
tokens (MTP, which llama.cpp's converter leaves out with `--no-mtp`), are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule, Sizes, Transform
from quantpress.convert.decoder import (
    ATTENTION,
    EMBEDDING,
    EXPERTS,
    FEED_FORWARD_MATRICES,
    SHARED_EXPERTS,
    decoder_keys,
    decoder_sizes,
    head_size,
    in_layers,
    only,
    taken_for_granted,
)
from quantpress.convert.families.gemma import norm
from quantpress.convert.rope import rope, rope_keys
from quantpress.convert.sources import Source, mapped, reordered, reordered_columns, rows
from quantpress.convert.steps import FUSED_EXPERTS, renamed
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["QWEN35", "QWEN35_MOE"]

_KINDS = ("linear_attention", "full_attention")
_INTERVAL = 4
_SECTIONS = [11, 11, 10]
_ROTATED = 0.25  # of a head


def _linear(config: Section, layer: int) -> bool:
    return config.items("layer_types")[layer : layer + 1] == [_KINDS[0]]


def _full(config: Section, layer: int) -> bool:
    return not _linear(config, layer)


def _order(sizes: Sizes, first: int, width: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Where each of the weights from `first` on, `width` a value head, comes from; those before it stay."""
    keys, each = sizes["key heads"], sizes["value heads"] // sizes["key heads"]

    def order(index: NDArray[np.int64]) -> NDArray[np.int64]:
        head, inside = np.divmod(index - first, width)
        return np.where(index < first, index, first + (head % keys * each + head // keys) * width + inside)

    return order


def _heads(first: str = "nothing", width: str = "one") -> Transform:
    """Rows, or the weights of a vector, of the value heads in llama.cpp's order."""

    def transform(source: Source, sizes: Sizes) -> Source:
        order = _order(sizes, sizes[first], sizes[width])
        if len(source.shape) == 1:
            return reordered_columns(source, order(np.arange(source.cols)))
        return reordered(source, order, source.shape)

    return transform


def _columns(source: Source, sizes: Sizes) -> Source:
    """The same of columns."""
    return reordered_columns(source, _order(sizes, 0, sizes["state"])(np.arange(source.cols)))


def _kernels(source: Source, sizes: Sizes) -> Source:
    """[channels, 1, kernel] as a matrix."""
    del sizes
    return rows(source, 0, (source.shape[0], source.cols)) if len(source.shape) == 3 else source


def _decay(source: Source, sizes: Sizes) -> Source:
    """The logarithm of the decay as llama.cpp multiplies by it."""
    del sizes
    # float64, so that the float32 nearest to the result is the same on every machine
    return mapped(source, lambda logarithm: (-np.exp(logarithm.astype(np.float64))).astype(np.float32))


_LINEAR = in_layers(
    {
        "attn_qkv.weight": Rule(("mixed", "hidden"), (_heads("queries and keys", "state"),)),
        "attn_gate.weight": Rule(("inner", "hidden"), (_heads(width="state"),)),
        "ssm_conv1d.weight": Rule(("mixed", "kernel"), (_kernels, _heads("queries and keys", "state")), reshapes=True),
        "ssm_dt.bias": Rule(("value heads",), (_heads(),)),
        "ssm_a": Rule(("value heads",), (_decay, _heads())),
        "ssm_alpha.weight": Rule(("value heads", "hidden"), (_heads(),)),
        "ssm_beta.weight": Rule(("value heads", "hidden"), (_heads(),)),
        "ssm_norm.weight": Rule(("state",)),
        "ssm_out.weight": Rule(("hidden", "inner"), (_columns,)),
    }
)
_FULL = ATTENTION | in_layers({"attn_q_norm.weight": norm("head"), "attn_k_norm.weight": norm("head")})
_LAYERS = (
    EMBEDDING
    | {"output_norm.weight": norm("hidden")}
    | only(_linear, _LINEAR)
    | only(_full, _FULL)
    | in_layers({"attn_norm.weight": norm("hidden"), "post_attention_norm.weight": norm("hidden")})
)
_SHARED = SHARED_EXPERTS | in_layers({"ffn_gate_inp_shexp.weight": Rule(("one", "hidden"))})


def _sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    fields = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_conv_kernel_dim")
    keys, values, state, kernel = (config.integer(field) for field in fields)
    common = decoder_sizes(config, layer)
    return common | {
        "queries": 2 * common["queries"],  # with a gate beside each head
        "key heads": keys,
        "value heads": values,
        "state": state,
        "kernel": kernel,
        "queries and keys": 2 * keys * state,
        "inner": values * state,
        "mixed": (2 * keys + values) * state,
        "shared": config.integer("shared_expert_intermediate_size", 0, least=0),
        "one": 1,
        "nothing": 0,
    }


def _metadata(config: Section, name: str) -> Metadata:
    _check(config)
    found, sizes = rope(config, ("default", "yarn")), _sizes(config)
    sections = found.items("mrope_section") or _SECTIONS
    if len(sections) > 4 or not all(type(size) is int and 0 <= size < 1 << 31 for size in sections):
        raise found.error("mrope_section", "up to four whole numbers", sections)
    linear = [_linear(config, layer) for layer in range(config.integer("num_hidden_layers"))]
    keys = {
        "rope.dimension_count": Value.u32(_rotated(config, found)),
        "rope.dimension_sections": Value.array(ValueType.INT32, [*sections, 0, 0, 0][:4]),
        "ssm.conv_kernel": Value.u32(sizes["kernel"]),
        "ssm.state_size": Value.u32(sizes["state"]),
        "ssm.group_count": Value.u32(sizes["key heads"]),
        "ssm.time_step_rank": Value.u32(sizes["value heads"]),
        "ssm.inner_size": Value.u32(sizes["inner"]),
        "attention.recurrent_layers": Value.array(ValueType.BOOL, linear),
        "full_attention_interval": Value.u32(config.integer("full_attention_interval", _INTERVAL)),
    }
    for key, field in (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ):
        if config.get(field) is not None:
            keys[key] = Value.u32(config.integer(field))
    named = {f"{name}.{key}": value for key, value in keys.items()}
    return decoder_keys(config, name) | rope_keys(config, name, ("default", "yarn")) | named


def _rotated(config: Section, found: Section) -> int:
    """Weights of a head that turn with the position."""
    part, head = found.number("partial_rotary_factor", config.get("partial_rotary_factor", _ROTATED)), head_size(config)
    if part > 1 or int(head * part) < 2 or int(head * part) % 2:
        raise found.error("partial_rotary_factor", f"a part of a head of {head} that is an even number", part)
    return int(head * part)


def _check(config: Section) -> None:
    """What llama.cpp's graph takes for granted."""
    keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    if values % keys:
        raise config.error("linear_num_value_heads", f"a multiple of the {keys} key heads", values)
    taken_for_granted(config, hidden_act="silu", attention_bias=False, attn_output_gate=True)
    taken_for_granted(config, linear_value_head_dim=config.get("linear_key_head_dim"))
    layers, kinds = config.integer("num_hidden_layers"), config.items("layer_types")
    if len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
        raise config.error("layer_types", f"{layers} of {' or '.join(_KINDS)}", kinds)


def _derived(config: Section) -> dict[str, Any]:
    interval = config.integer("full_attention_interval", _INTERVAL)
    layers = config.integer("num_hidden_layers")
    return {"layer_types": [_KINDS[(layer + 1) % interval == 0] for layer in range(layers)]}


# what transformers' Qwen3_5TextConfig and Qwen3_5MoeTextConfig assume
_DEFAULTS: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "attn_output_gate": True,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_DEFAULTS_MOE = _DEFAULTS | {
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
}

QWEN35 = Architecture(
    classes=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    gguf=gguf.MODEL_ARCH.QWEN35,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=MappingProxyType(_LAYERS | FEED_FORWARD_MATRICES),
    metadata=partial(_metadata, name="qwen35"),
    vocabulary=automatic,
    defaults=MappingProxyType(_DEFAULTS),
    derived=_derived,
    steps=(renamed(r"\.dt_bias$", ".dt_proj.bias"),),
    ignored=r"(model\.)?(language_model\.)?(mtp|visual)\.",
)

QWEN35_MOE = replace(
    QWEN35,
    classes=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    gguf=gguf.MODEL_ARCH.QWEN35MOE,
    rules=MappingProxyType(_LAYERS | EXPERTS | _SHARED),
    metadata=partial(_metadata, name="qwen35moe"),
    steps=(
        *QWEN35.steps,
        *FUSED_EXPERTS,
    ),
    defaults=MappingProxyType(_DEFAULTS_MOE),
)
