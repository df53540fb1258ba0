"""Qwen 2 and 2.5 (biases on queries, keys and values), Qwen 3 (norms of queries and keys instead), dense and MoE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule
from quantpress.convert.decoder import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    FEED_FORWARD,
    decoder_keys,
    decoder_sizes,
    derived_heads,
    in_layers,
    taken_for_granted,
)
from quantpress.convert.rope import check_yarn, rope_keys
from quantpress.convert.steps import cut, experts
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["QWEN2", "QWEN3", "QWEN3_MOE"]

_HEAD_NORMS = in_layers({"attn_q_norm.weight": Rule(("head",)), "attn_k_norm.weight": Rule(("head",))})


def _metadata(config: Section, name: str) -> Metadata:
    if config.get("use_sliding_window"):
        raise config.error("use_sliding_window", "false, as llama.cpp attends to all", True)
    taken_for_granted(config, hidden_act="silu")
    check_yarn(config)
    return decoder_keys(config, name) | rope_keys(config, name, ("default", "linear", "yarn"))


def _moe_metadata(config: Section) -> Metadata:
    if config.integer("decoder_sparse_step", 1) != 1 or config.items("mlp_only_layers"):
        raise config.error("decoder_sparse_step", "experts in every layer, as llama.cpp computes it", "dense layers")
    if not config.get("norm_topk_prob"):
        raise config.error("norm_topk_prob", "true, as llama.cpp computes it", config.get("norm_topk_prob"))
    expert = Value.u32(config.integer("moe_intermediate_size"))
    return _metadata(config, "qwen3moe") | {"qwen3moe.expert_feed_forward_length": expert}


QWEN2 = Architecture(
    classes=("Qwen2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN2,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType(EMBEDDING | ATTENTION | ATTENTION_BIASES | FEED_FORWARD),
    metadata=partial(_metadata, name="qwen2"),
    vocabulary=automatic,
    defaults=MappingProxyType({"rms_norm_eps": 1e-6, "rope_theta": 10_000.0}),
)

QWEN3 = replace(
    QWEN2,
    classes=("Qwen3ForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN3,
    rules=MappingProxyType(EMBEDDING | ATTENTION | _HEAD_NORMS | FEED_FORWARD),
    metadata=partial(_metadata, name="qwen3"),
    derived=derived_heads,
)

QWEN3_MOE = replace(
    QWEN3,
    classes=("Qwen3MoeForCausalLM",),
    gguf=gguf.MODEL_ARCH.QWEN3MOE,
    rules=MappingProxyType(
        EMBEDDING | ATTENTION | _HEAD_NORMS | EXPERTS | in_layers({"ffn_norm.weight": Rule(("hidden",))})
    ),
    metadata=_moe_metadata,
    steps=(
        experts(),
        cut(r"(.+\.experts)\.gate_up_proj(?:\.weight)?", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
    ),
)
