"""Qwen 2 and 2.5 (biases on queries, keys and values), Qwen 3 (norms of queries and keys instead), dense and MoE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule
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
    in_layers,
    taken_for_granted,
)
from quantpress.convert.families.pooling import pooling
from quantpress.convert.rope import check_yarn, rope_keys
from quantpress.convert.steps import FUSED_EXPERTS
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["QWEN2", "QWEN3", "QWEN3_MOE"]

_HEAD_NORMS = in_layers({"attn_q_norm.weight": Rule(("head",)), "attn_k_norm.weight": Rule(("head",))})


def _metadata(config: Section, name: str) -> Metadata:
    _check_window(config)
    taken_for_granted(config, hidden_act="silu")
    check_yarn(config)
    return decoder_keys(config, name) | rope_keys(config, name, ("default", "linear", "yarn"))


def _check_window(config: Section) -> None:
    """Raise CheckpointError where a layer attends to less than the context."""
    layers, window = config.integer("num_hidden_layers"), config.get("sliding_window")
    if not config.get("use_sliding_window") or window is None:
        return
    kinds, first = config.items("layer_types"), config.integer("max_window_layers", layers, least=0)
    slides = "sliding_attention" in kinds if kinds else first < layers
    if slides and config.integer("sliding_window") < config.integer("max_position_embeddings"):
        raise config.error("use_sliding_window", "false, as llama.cpp attends to all", True)


def _pooling(checkpoint: Checkpoint, config: Section, name: str) -> Metadata:
    """That of the embedding models, as Qwen3-Embedding."""
    del config
    found = pooling(checkpoint)
    return {} if found is None else {f"{name}.pooling_type": Value.u32(found)}


def _moe_metadata(config: Section) -> Metadata:
    if config.integer("decoder_sparse_step", 1) != 1 or config.items("mlp_only_layers"):
        raise config.error("decoder_sparse_step", "experts in every layer, as llama.cpp computes it", "dense layers")
    if not config.get("norm_topk_prob"):
        raise config.error("norm_topk_prob", "true, as llama.cpp computes it", config.get("norm_topk_prob"))
    expert = Value.u32(config.integer("moe_intermediate_size"))
    return _metadata(config, "qwen3moe") | {"qwen3moe.expert_feed_forward_length": expert}


# what transformers' Qwen2Config, Qwen3Config and Qwen3MoeConfig assume
_DEFAULTS = {
    "vocab_size": 151_936,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}

QWEN2 = Architecture(
    classes=("Qwen2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN2,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType(EMBEDDING | ATTENTION | ATTENTION_BIASES | FEED_FORWARD),
    metadata=partial(_metadata, name="qwen2"),
    vocabulary=automatic,
    beside=partial(_pooling, name="qwen2"),
    defaults=MappingProxyType(_DEFAULTS),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
)

QWEN3 = replace(
    QWEN2,
    classes=("Qwen3ForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN3,
    rules=MappingProxyType(EMBEDDING | ATTENTION | _HEAD_NORMS | FEED_FORWARD),
    metadata=partial(_metadata, name="qwen3"),
    beside=partial(_pooling, name="qwen3"),
    defaults=MappingProxyType({**_DEFAULTS, "head_dim": 128}),
    derived=derived_heads,
)

QWEN3_MOE = replace(
    QWEN3,
    classes=("Qwen3MoeForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN3MOE,
    rules=MappingProxyType(EMBEDDING | ATTENTION | _HEAD_NORMS | EXPERTS | FEED_FORWARD_NORM),
    metadata=_moe_metadata,
    beside=lambda checkpoint, config: {},
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        }
    ),
    steps=FUSED_EXPERTS,
)
