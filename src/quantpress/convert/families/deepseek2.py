"""DeepSeek V2, V3, R1 and those of their form: latent attention (MLA), dense layers first, then experts, some shared.

V3 routes to groups of experts, by a sigmoid and a bias. Its layers for the prediction of further tokens (MTP) are left
out, as llama.cpp's converter does. See latent.py for the attention.

llama.cpp rates a group of experts by its two best, as V3 does; V2, V2.5 and Coder-V2 (not Lite) are trained to rate it
by the best, so that llama.cpp takes other experts for some tokens. They are used so, and are converted.

transformers norms the latent vectors with an epsilon of 1e-6 whatever `rms_norm_eps` is, llama.cpp with `rms_norm_eps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule
from quantpress.convert.decoder import (
    EMBEDDING,
    EXPERTS,
    FEED_FORWARD_MATRICES,
    SHARED_EXPERTS,
    decoder_keys,
    decoder_sizes,
    expert_count,
    in_layers,
    only,
)
from quantpress.convert.families.latent import keys_and_values, widths
from quantpress.convert.rope import rope, rope_keys
from quantpress.convert.steps import FUSED_EXPERTS, renamed, trunk
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["DEEPSEEK_V2", "DEEPSEEK_V3"]

_GATES = {"softmax": 1, "sigmoid": 2}


def _compressed(config: Section, layer: int) -> bool:
    """Whether queries are made of a latent vector, too."""
    del layer
    return config.get("q_lora_rank") is not None


def _mixed(config: Section, layer: int) -> bool:
    return expert_count(config) > 0 and layer >= config.integer("first_k_dense_replace", 0, least=0)


def _direct(config: Section, layer: int) -> bool:
    return not _compressed(config, layer)


def _dense(config: Section, layer: int) -> bool:
    return not _mixed(config, layer)


_LAYERS = in_layers(
    {
        "attn_norm.weight": Rule(("hidden",)),
        "attn_kv_a_mqa.weight": Rule(("latent and rope", "hidden")),
        "attn_kv_a_norm.weight": Rule(("latent",)),
        "attn_k_b.weight": Rule(("heads", "latent", "plain")),
        "attn_v_b.weight": Rule(("heads", "value", "latent")),
        "attn_output.weight": Rule(("hidden", "attended")),
        "ffn_norm.weight": Rule(("hidden",)),
    }
)
_QUERIES = in_layers(
    {
        "attn_q_a.weight": Rule(("latent query", "hidden")),
        "attn_q_a_norm.weight": Rule(("latent query",)),
        "attn_q_b.weight": Rule(("queries", "latent query")),
    }
)
_BIAS = in_layers({"exp_probs_b.bias": Rule(("experts",))})
_RULES = MappingProxyType(
    EMBEDDING
    | _LAYERS
    | only(_compressed, _QUERIES)
    | only(_direct, in_layers({"attn_q.weight": Rule(("queries", "hidden"))}))
    | only(_dense, FEED_FORWARD_MATRICES)
    | only(_mixed, EXPERTS | SHARED_EXPERTS)
)


def _sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    heads, latent, plain, rotated, value = widths(config)
    shared = config.integer("n_shared_experts", 0, least=0) * config.integer("moe_intermediate_size", 0, least=0)
    return decoder_sizes(config, layer) | {
        "queries": heads * (plain + rotated),
        "attended": heads * value,
        "latent query": config.integer("q_lora_rank", 0, least=0),
        "latent": latent,
        "latent and rope": latent + rotated,
        "plain": plain,
        "value": value,
        "shared": shared,
    }


def _metadata(config: Section, expected: Mapping[str, tuple[object, ...]]) -> Metadata:
    _check(config, expected)
    _, latent, plain, rotated, value = widths(config)
    keys = {
        "vocab_size": Value.u32(config.integer("vocab_size")),
        "leading_dense_block_count": Value.u32(config.integer("first_k_dense_replace", 0, least=0)),
        "attention.kv_lora_rank": Value.u32(latent),
        # for llama.cpp all heads share one key and value, the latent vector
        "attention.head_count_kv": Value.u32(1),
        "attention.key_length": Value.u32(latent + rotated),
        "attention.value_length": Value.u32(latent),
        "attention.key_length_mla": Value.u32(plain + rotated),
        "attention.value_length_mla": Value.u32(value),
        "expert_feed_forward_length": Value.u32(config.integer("moe_intermediate_size")),
        "expert_shared_count": Value.u32(config.integer("n_shared_experts")),
        "expert_weights_scale": Value.f32(config.number("routed_scaling_factor")),
        "rope.dimension_count": Value.u32(rotated),
    }
    if config.get("scoring_func") is not None:
        keys["expert_gating_func"] = Value.u32(_GATES[config.get("scoring_func")])
    if config.get("norm_topk_prob"):
        keys["expert_weights_norm"] = Value.bool_(True)
    keys |= _query_rank(config) | _scale(config)
    named = {f"deepseek2.{key}": value for key, value in keys.items()}
    return decoder_keys(config, "deepseek2") | rope_keys(config, "deepseek2", ("default", "yarn")) | named


def _query_rank(config: Section) -> Metadata:
    """llama.cpp wants the key but where it knows by the number of layers that it is V2 Lite or Moonlight; 0 is none."""
    if config.get("q_lora_rank") is not None:
        return {"attention.q_lora_rank": Value.u32(config.integer("q_lora_rank"))}
    return {} if config.integer("num_hidden_layers") in (26, 27) else {"attention.q_lora_rank": Value.u32(0)}


def _scale(config: Section) -> Metadata:
    """YaRN's scale of the attention, a tenth of `mscale_all_dim`: llama.cpp's graph multiplies it by ten."""
    found = rope(config, ("default", "yarn"))
    if found.get("rope_type") == "default":
        return {}
    scale = found.number("mscale_all_dim")
    for key, expected in (("mscale", scale), ("attention_factor", None)):
        if found.get(key) != expected:
            raise found.error(key, f"{expected!r}, as llama.cpp computes it", found.get(key))
    return {"rope.scaling.yarn_log_multiplier": Value.f32(0.1 * scale)}


def _check(config: Section, expected: Mapping[str, tuple[object, ...]]) -> None:
    for key, values in expected.items():
        if config.get(key) not in values:
            wanted = " or ".join(repr(value) for value in values if value is not None)
            raise config.error(key, f"{wanted}, as llama.cpp computes it", config.get(key))
    groups, count = config.integer("n_group", 1), config.integer("n_routed_experts")
    if config.integer("num_experts_per_tok") > count:
        raise config.error("num_experts_per_tok", f"at most {count}", config.get("num_experts_per_tok"))
    if groups > 1 and (count % groups or count < 2 * groups):
        raise config.error("n_group", f"a number that shares {count} experts out, two or more to each group", groups)
    if groups > 1 and config.get("topk_method") == "greedy":
        raise config.error("n_group", "1 where topk_method is 'greedy', as llama.cpp computes it", groups)
    if groups > 1 and config.integer("topk_group") >= groups:
        raise config.error("topk_group", f"fewer than the {groups} groups", config.get("topk_group"))


# what llama.cpp's graph takes for granted
_ALIKE: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "rope_interleave": (None, True),
    "moe_layer_freq": (None, 1),
}
_V2 = _ALIKE | {
    "scoring_func": (None, "softmax"),
    "topk_method": (None, "greedy", "group_limited_greedy"),
    "norm_topk_prob": (None, False),  # V2 does not scale what it norms; llama.cpp does both
}
_V3 = _ALIKE | {"scoring_func": ("sigmoid",), "topk_method": (None, "noaux_tc")}
_STEPS = (
    trunk,
    renamed(r"(.+)\.e_score_correction_bias$", r"\1.e_score_correction.bias"),
    *FUSED_EXPERTS,
    keys_and_values,
)

# what transformers' DeepseekV2Config and DeepseekV3Config assume
_DEFAULTS_V2: dict[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
}
_DEFAULTS_V3 = _DEFAULTS_V2 | {
    "max_position_embeddings": 4096,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}

DEEPSEEK_V2 = Architecture(
    classes=("DeepseekV2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.DEEPSEEK2,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=_RULES,
    metadata=partial(_metadata, expected=_V2),
    vocabulary=automatic,
    defaults=MappingProxyType(_DEFAULTS_V2),
    steps=_STEPS,
)

DEEPSEEK_V3 = replace(
    DEEPSEEK_V2,
    classes=("DeepseekV3ForCausalLM",),
    rules=MappingProxyType(_RULES | only(_mixed, _BIAS)),
    metadata=partial(_metadata, expected=_V3),
    defaults=MappingProxyType(_DEFAULTS_V3),
)
