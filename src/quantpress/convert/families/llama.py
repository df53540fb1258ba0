"""Llama 2 and 3, Mistral, Mixtral, and the many that share their form: SmolLM, Yi, TinyLlama.

llama.cpp rotates neighbouring weights of a head, transformers those half a head apart: the rows of queries and keys are
put in the order of the former. It ignores Mistral 7B's sliding window: after 4096 tokens the first version of that
model attends to more than in transformers.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule, Sizes
from quantpress.convert.decoder import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    FEED_FORWARD,
    FEED_FORWARD_NORM,
    decoder_keys,
    decoder_sizes,
    derived_heads,
    has,
    head_size,
    in_layers,
    only,
    taken_for_granted,
)
from quantpress.convert.rope import check_yarn, llama3_factors, rope_keys
from quantpress.convert.sources import Source, reordered, reordered_columns
from quantpress.convert.steps import experts
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["LLAMA", "MISTRAL", "MIXTRAL", "paired"]


def paired(source: Source, sizes: Sizes) -> Source:
    """Rows of each head, or weights of its bias: i and i + half in turn."""
    head = sizes["head"]

    def order(row: NDArray[np.int64]) -> NDArray[np.int64]:
        inside = row % head
        return row - inside + inside // 2 + inside % 2 * (head // 2)

    if len(source.shape) == 1:
        return reordered_columns(source, order(np.arange(source.cols)))
    return reordered(source, order, source.shape)


_PAIRED = in_layers(
    {
        "attn_q.weight": Rule(("queries", "hidden"), (paired,)),
        "attn_k.weight": Rule(("keys", "hidden"), (paired,)),
    }
)
_BIASES = ATTENTION_BIASES | in_layers(
    {
        "attn_q.bias": Rule(("queries",), (paired,)),
        "attn_k.bias": Rule(("keys",), (paired,)),
        "attn_output.bias": Rule(("hidden",)),
    }
)
_FEED_FORWARD_BIASES = in_layers(
    {
        "ffn_gate.bias": Rule(("feed-forward",)),
        "ffn_up.bias": Rule(("feed-forward",)),
        "ffn_down.bias": Rule(("hidden",)),
    }
)


def _metadata(config: Section) -> Metadata:
    taken_for_granted(config, hidden_act="silu")
    check_yarn(config)
    return (
        decoder_keys(config, "llama")
        | rope_keys(config, "llama")
        | {
            "llama.vocab_size": Value.u32(config.integer("vocab_size")),
            "llama.rope.dimension_count": Value.u32(head_size(config)),
        }
    )


def _computed(config: Section) -> dict[str, Any]:
    factors = llama3_factors(config, head_size(config))
    return {} if factors is None else {"rope_freqs.weight": factors}


LLAMA = Architecture(
    classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
    gguf=gguf.MODEL_ARCH.LLAMA,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType(
        EMBEDDING
        | ATTENTION
        | _PAIRED
        | only(has("attention_bias"), _BIASES)
        | FEED_FORWARD
        | only(has("mlp_bias"), _FEED_FORWARD_BIASES)
    ),
    metadata=_metadata,
    vocabulary=automatic,
    # transformers' LlamaConfig
    defaults=MappingProxyType(
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": False,
        }
    ),
    derived=derived_heads,
    computed=_computed,
)

MISTRAL = replace(
    LLAMA,
    classes=("MistralForCausalLM",),
    # transformers' MistralConfig
    defaults=MappingProxyType(
        {
            **LLAMA.defaults,
            "intermediate_size": 14_336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
        }
    ),
)

MIXTRAL = replace(
    MISTRAL,
    classes=("MixtralForCausalLM",),
    rules=MappingProxyType(EMBEDDING | ATTENTION | _PAIRED | EXPERTS | FEED_FORWARD_NORM),
    # transformers' MixtralConfig
    defaults=MappingProxyType(
        {
            **MISTRAL.defaults,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        }
    ),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
    steps=(
        experts(r"(?:model\.)?(layers\.\d+)\.block_sparse_moe\.experts\.(\d+)\.(.+)", r"\1.feed_forward.experts.\3"),
    ),
)
