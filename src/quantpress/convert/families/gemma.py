"""What the Gemmas share: norms stored as the difference from 1, layers that slide, and a fixed attention scale.

llama.cpp knows the pattern of the sliding layers by itself; for another one we write
`attention.sliding_window_pattern`, which it reads, though its own converter never writes it for Gemma 2 and 3.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Rule, Sizes
from quantpress.convert.decoder import ATTENTION, EMBEDDING, FEED_FORWARD, in_layers
from quantpress.convert.sources import Source, mapped
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["LAYERS", "norm", "query_scale", "sliding_layers", "sliding_window_keys", "vocabulary"]

_KINDS = ("full_attention", "sliding_attention")


def plus_one(source: Source, sizes: Sizes) -> Source:
    """One more than the stored weight: Gemma keeps its norms' weights as the difference from 1."""
    del sizes
    return mapped(source, lambda weights: weights + np.float32(1))


def norm(size: str) -> Rule:
    """A norm's weight."""
    return Rule((size,), (plus_one,))


LAYERS = MappingProxyType(
    EMBEDDING
    | {"output_norm.weight": norm("hidden")}
    | ATTENTION
    | FEED_FORWARD
    | in_layers(
        {
            "attn_norm.weight": norm("hidden"),
            "post_attention_norm.weight": norm("hidden"),
            "ffn_norm.weight": norm("hidden"),
            "post_ffw_norm.weight": norm("hidden"),
        }
    )
)
"""The rules of Gemma 2, to which Gemma 3 adds norms of queries and keys."""


def sliding_layers(config: Section, pattern: int) -> list[bool]:
    """Whether each layer slides: from `layer_types`, or all but each `pattern`-th, as older configurations say it.

    Raises CheckpointError for other kinds, or another number of them.
    """
    layers, kinds = config.integer("num_hidden_layers"), config.items("layer_types")
    if not kinds:
        pattern = config.integer("sliding_window_pattern", config.get("_sliding_window_pattern", pattern))
        return [bool((layer + 1) % pattern) for layer in range(layers)]
    if len(kinds) != layers or any(kind not in _KINDS for kind in kinds):
        raise config.error("layer_types", f"{layers} of sliding_attention or full_attention", kinds)
    return [kind == "sliding_attention" for kind in kinds]


def sliding_window_keys(config: Section, name: str, pattern: int) -> Metadata:
    """`<name>.attention.sliding_window` and, unless all but each `pattern`-th layer slide, which do."""
    sliding = sliding_layers(config, pattern)
    found = {f"{name}.attention.sliding_window": Value.u32(config.integer("sliding_window"))}
    if sliding != [bool((layer + 1) % pattern) for layer in range(len(sliding))]:
        found[f"{name}.attention.sliding_window_pattern"] = Value.array(ValueType.BOOL, sliding)
    return found


def query_scale(config: Section, layers_27b: int) -> int:
    """The `query_pre_attn_scalar` that llama.cpp computes with: it tells the model of 27 B by its number of layers."""
    if config.integer("num_hidden_layers") == layers_27b:
        return config.integer("hidden_size") // config.integer("num_attention_heads")
    return config.integer("head_dim")


def vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    """The tokenizer's keys; Gemma puts no space before a text."""
    return automatic(checkpoint, size) | {"tokenizer.ggml.add_space_prefix": Value.bool_(False)}
