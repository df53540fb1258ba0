"""Phi-3, Phi-3.5 (not its MoE), Phi-4 and Phi-4-mini: queries, keys and values in one matrix, gate and up in another.

llama.cpp takes both as they are. Its graph ignores the sliding window, which only the 4k models have shorter than their
context: after 2047 tokens of them it attends to more than transformers does. Of the two sets of longrope factors it
takes one for the whole context, by the size that the context was created with, and not by the length of the text.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from quantpress.arrays import Floats
from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule
from quantpress.convert.decoder import EMBEDDING, decoder_keys, decoder_sizes, head_size, in_layers, taken_for_granted
from quantpress.convert.rope import rope, rotary_size
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["PHI3"]

_LONGROPE = ("longrope", "su", "yarn")  # transformers reads the older names as longrope too

_LAYER = in_layers(
    {
        "attn_norm.weight": Rule(("hidden",)),
        "attn_qkv.weight": Rule(("queries, keys, values", "hidden")),
        "attn_output.weight": Rule(("hidden", "attended")),
        "ffn_norm.weight": Rule(("hidden",)),
        "ffn_up.weight": Rule(("gate, up", "hidden")),
        "ffn_down.weight": Rule(("hidden", "feed-forward")),
    }
)


def _sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    found = decoder_sizes(config, layer)
    joint = found["queries"] + found["keys"] + found["values"]
    return found | {"queries, keys, values": joint, "gate, up": 2 * found["feed-forward"]}


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    heads = config.integer("num_attention_heads")
    taken_for_granted(config, hidden_act="silu", head_dim=config.integer("hidden_size") // heads)
    found = rope(config, ("default", *_LONGROPE))
    rotary = rotary_size(config, found, head_size(config))
    keys = {
        "rope.scaling.original_context_length": Value.u32(config.integer("original_max_position_embeddings")),
        "rope.dimension_count": Value.u32(rotary),
        "rope.freq_base": Value.f32(found.number("rope_theta")),
        # 0 tells Phi-4 from the others
        "attention.sliding_window": Value.u32(config.integer("sliding_window", 0, least=0)),
    }
    if found.get("rope_type") in _LONGROPE:
        keys["rope.scaling.attn_factor"] = Value.f32(_attention_factor(config, found))
    return decoder_keys(config, "phi3") | {f"phi3.{key}": value for key, value in keys.items()}


def _attention_factor(config: Section, found: Section) -> float:
    """What queries and keys are multiplied by, which longrope derives from how far the context is stretched."""
    original = config.integer("original_max_position_embeddings", least=2)
    factor = found.number("factor", config.integer("max_position_embeddings") / original)
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return found.number("attention_factor", default)


def _computed(config: Section) -> dict[str, Any]:
    """The factors of longrope, as tensors."""
    found = rope(config, ("default", *_LONGROPE))
    if found.get("rope_type") == "default":
        return {}
    count = rotary_size(config, found, head_size(config)) // 2
    return {f"rope_factors_{kind}.weight": _factors(found, f"{kind}_factor", count) for kind in ("long", "short")}


def _factors(found: Section, field: str, count: int) -> Floats:
    factors = found.items(field)
    if len(factors) != count or not all(type(one) in (int, float) and 0 < one < 1e30 for one in factors):
        raise found.error(field, f"{count} positive numbers, half of what is rotated of a head", factors)
    return np.array(factors, np.float32)


PHI3 = Architecture(
    classes=("Phi3ForCausalLM",),
    gguf=gguf.MODEL_ARCH.PHI3,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=MappingProxyType(EMBEDDING | _LAYER),
    metadata=_metadata,
    vocabulary=automatic,
    defaults=MappingProxyType(
        {
            "vocab_size": 32_064,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
        }
    ),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
    computed=_computed,
)
