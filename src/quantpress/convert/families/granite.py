"""Granite 3 and 4 without Mamba layers, dense and MoE: Llama's form with four factors of its own.

The embedding, the attention, each addition to the residual, and the logits are scaled. The gates of all experts stand
above their other matrices in one tensor. Granite 4 calls itself a hybrid even where it has no Mamba layer (micro, 1B,
350M); its feed-forward is then the shared expert.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Sources
from quantpress.convert.decoder import (
    EXPERTS,
    FEED_FORWARD_NORM,
    SHARED_EXPERTS,
    decoder_keys,
    decoder_sizes,
    expert_count,
    has,
    only,
    taken_for_granted,
)
from quantpress.convert.families.llama import LLAMA
from quantpress.convert.rope import check_yarn, rope_keys
from quantpress.convert.steps import cut, renamed
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["GRANITE", "GRANITE_4", "GRANITE_MOE"]

_LAYER = r"(?:model\.)?layers\.(\d+)\."
_FACTORS = (
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)
_ATTENTION = ("attention", "full_attention")  # the former is the older name


def _metadata(config: Section, name: str) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    head = config.integer("hidden_size") // config.integer("num_attention_heads")
    taken_for_granted(config, hidden_act="silu", head_dim=head)
    check_yarn(config)
    found = decoder_keys(config, name) | rope_keys(config, name)
    for key in ("key_length", "value_length"):  # llama.cpp's converter knows no head_dim here
        found.pop(f"{name}.attention.{key}", None)
    found[f"{name}.vocab_size"] = Value.u32(config.integer("vocab_size"))
    found[f"{name}.rope.dimension_count"] = Value.u32(head)
    return found | {f"{name}.{key}": Value.f32(config.number(field)) for key, field in _FACTORS}


def _moe_metadata(config: Section) -> Metadata:
    if not expert_count(config):
        raise config.error("num_local_experts", "a whole number from 1 on", config.get("num_local_experts"))
    found = _metadata(config, "granitemoe")
    if shared := config.integer("shared_intermediate_size", 0, least=0):
        found["granitemoe.expert_shared_feed_forward_length"] = Value.u32(shared)
    return found


def _granite_4_metadata(config: Section) -> Metadata:
    kinds, layers = config.items("layer_types"), config.integer("num_hidden_layers")
    if len(kinds) != layers or any(kind not in _ATTENTION for kind in kinds):
        hint = "A BF16 GGUF file that llama.cpp's own converter (convert_hf_to_gguf.py) made will do in its place"
        raise config.error("layer_types", f"{layers} of attention: hybrids with Mamba layers are unknown", kinds, hint)
    shared = config.integer("shared_intermediate_size")
    taken_for_granted(
        config, num_local_experts=0, num_experts_per_tok=0, intermediate_size=shared, position_embedding_type="rope"
    )
    groups = [config.integer("num_key_value_heads")] * layers
    keys = {
        "attention.head_count_kv": Value.array(ValueType.INT32, groups),
        "expert_shared_feed_forward_length": Value.u32(shared),
        "rope.scaling.finetuned": Value.bool_(True),  # for llama.cpp: that there is a rope
        # of layers that are not there, but in the files of llama.cpp's converter
        "ssm.conv_kernel": Value.u32(config.integer("mamba_d_conv")),
        "ssm.state_size": Value.u32(config.integer("mamba_d_state")),
        "ssm.group_count": Value.u32(config.integer("mamba_n_groups")),
        "ssm.inner_size": Value.u32(config.integer("mamba_expand") * config.integer("hidden_size")),
        "ssm.time_step_rank": Value.u32(config.integer("mamba_n_heads")),
    }
    return _metadata(config, "granite") | {f"granite.{key}": value for key, value in keys.items()}


def _moe_sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    return decoder_sizes(config, layer) | {"shared": config.integer("shared_intermediate_size", 0, least=0)}


def _no_experts(sources: Sources, config: Section) -> Sources:
    """Without what a checkpoint of no experts has for them: tensors without a weight."""
    del config
    return {name: source for name, source in sources.items() if 0 not in source.shape}


_DEFAULTS = {
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    **{field: 1.0 for _, field in _FACTORS},
}

GRANITE = replace(
    LLAMA,
    classes=("GraniteForCausalLM",),
    gguf=gguf.MODEL_ARCH.GRANITE,
    metadata=partial(_metadata, name="granite"),
    defaults=MappingProxyType(_DEFAULTS),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
)

GRANITE_MOE = replace(
    GRANITE,
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    gguf=gguf.MODEL_ARCH.GRANITE_MOE,
    sizes=_moe_sizes,
    rules=MappingProxyType(
        {name: rule for name, rule in LLAMA.rules.items() if ".ffn_" not in name}
        | FEED_FORWARD_NORM
        | EXPERTS
        | only(has("shared_intermediate_size"), SHARED_EXPERTS)
    ),
    metadata=_moe_metadata,
    defaults=MappingProxyType({**_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2}),
    steps=(
        cut(
            _LAYER + r"block_sparse_moe\.(?:input_linear\.weight|experts\.gate_up_proj)",
            (r"blk.\1.ffn_gate_exps.weight", r"blk.\1.ffn_up_exps.weight"),
        ),
        cut(
            _LAYER + r"shared_mlp\.input_linear\.weight",
            (r"blk.\1.ffn_gate_shexp.weight", r"blk.\1.ffn_up_shexp.weight"),
        ),
        # as transformers 5 calls them in memory
        renamed(_LAYER + r"block_sparse_moe\.experts\.down_proj$", r"blk.\1.ffn_down_exps.weight"),
        renamed(_LAYER + r"block_sparse_moe\.router\.weight$", r"blk.\1.ffn_gate_inp.weight"),
    ),
)

GRANITE_4 = replace(
    GRANITE,
    classes=("GraniteMoeHybridForCausalLM",),
    metadata=_granite_4_metadata,
    defaults=MappingProxyType(
        {
            **_DEFAULTS,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 11_008,
            "shared_intermediate_size": 1024,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        }
    ),
    steps=(
        _no_experts,
        cut(_LAYER + r"shared_mlp\.input_linear\.weight", (r"blk.\1.ffn_gate.weight", r"blk.\1.ffn_up.weight")),
        renamed(_LAYER + r"shared_mlp\.output_linear\.weight$", r"blk.\1.ffn_down.weight"),
    ),
)
