"""What the Gemmas share: norms stored as the difference from 1, layers that slide, and a fixed attention scale."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Rule, Sizes
from quantpress.convert.decoder import ATTENTION, EMBEDDING, FEED_FORWARD, in_layers
from quantpress.convert.sources import Source, mapped
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["LAYERS", "norm", "query_scale", "vocabulary"]


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


def query_scale(config: Section, layers_27b: int) -> int:
    """The `query_pre_attn_scalar` that llama.cpp computes with: it tells the model of 27 B by its number of layers."""
    if config.integer("num_hidden_layers") == layers_27b:
        return config.integer("hidden_size") // config.integer("num_attention_heads")
    return config.integer("head_dim")


def vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    """The tokenizer's keys; Gemma puts no space before a text."""
    return automatic(checkpoint, size) | {"tokenizer.ggml.add_space_prefix": Value.bool_(False)}
