"""Gemma 4: dense, with experts beside a dense feed-forward (26B-A4B), and with embeddings for each layer (E2B, E4B).

The layers that attend to all have another head size than the sliding ones, may have fewer key heads, and may take the
keys for values too. Their rope turns a quarter of a head, at the pace of the whole (`proportional`); llama.cpp turns
the rest by an angle divided by 1e30, which is none. The last layers of the E-series use the keys and values of
earlier ones. Norms are stored as they are.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import gguf
import numpy as np

from quantpress.arrays import Floats
from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule
from quantpress.convert.decoder import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD,
    decoder_keys,
    has,
    in_layers,
    only,
    taken_for_granted,
)
from quantpress.convert.families.gemma4_layers import full, has_own_values, layer_sizes, shared, sliding
from quantpress.convert.rope import rope, rope_keys
from quantpress.convert.steps import experts, renamed, united
from quantpress.convert.vocabulary import gemma4
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["GEMMA4", "GEMMA4_UNIFIED"]

_NOT_TURNED = 1e30
_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}

_KEYS_AND_VALUES = in_layers(  # some checkpoints of the E-series have those that are not used, too
    {
        "attn_k.weight": Rule(("keys", "hidden"), optional=shared),
        "attn_k_norm.weight": Rule(("head",), optional=shared),
        "attn_v.weight": Rule(("values", "hidden"), when=has_own_values, optional=shared),
    }
)
_NORMS = in_layers(
    {
        "attn_q_norm.weight": Rule(("head",)),
        "post_attention_norm.weight": Rule(("hidden",)),
        "post_ffw_norm.weight": Rule(("hidden",)),
        "layer_output_scale.weight": Rule(("one",), required=False),
    }
)
_EXPERTS = in_layers(
    {
        "ffn_gate_inp.weight": Rule(("experts", "hidden")),
        "ffn_gate_inp.scale": Rule(("hidden",)),
        "ffn_gate_up_exps.weight": Rule(("experts", "gate and up", "hidden")),
        "ffn_down_exps.weight": Rule(("experts", "hidden", "expert")),
        "ffn_down_exps.scale": Rule(("experts",)),
        "post_ffw_norm_1.weight": Rule(("hidden",)),
        "pre_ffw_norm_2.weight": Rule(("hidden",)),
        "post_ffw_norm_2.weight": Rule(("hidden",)),
    }
)
_LAYER_INPUTS = {
    "per_layer_token_embd.weight": Rule(("vocabulary", "layer inputs")),
    "per_layer_model_proj.weight": Rule(("layer inputs", "hidden")),
    "per_layer_proj_norm.weight": Rule(("layer input",)),
} | in_layers(
    {
        "inp_gate.weight": Rule(("layer input", "hidden")),
        "proj.weight": Rule(("hidden", "layer input")),
        "post_norm.weight": Rule(("hidden",)),
    }
)


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    _check(config)
    base = rope(config, ("default",), "sliding_attention").number("rope_theta")
    capped = bool(config.get("final_logit_softcapping"))
    head, sliding_head = (Value.u32(one.integer("head_dim")) for one in (full(config), config))
    keys = {
        "attention.sliding_window": Value.u32(config.integer("sliding_window")),
        "attention.sliding_window_pattern": Value.array(ValueType.BOOL, sliding(config)),
        "attention.shared_kv_layers": Value.u32(config.integer("num_kv_shared_layers", least=0)),
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.key_length_swa": sliding_head,
        "attention.value_length_swa": sliding_head,
        "rope.dimension_count": head,
        "rope.dimension_count_swa": sliding_head,
        "rope.freq_base_swa": Value.f32(base),
        # llama.cpp takes a missing one for 30, though its converter leaves it out where there is none
        "final_logit_softcapping": Value.f32(config.number("final_logit_softcapping") if capped else 0.0),
        "embedding_length_per_layer_input": Value.u32(config.integer("hidden_size_per_layer_input", 0, least=0)),
    }
    if full(config).get("num_key_value_heads") != config.get("num_key_value_heads"):
        keys["attention.head_count_kv"] = _by_layer(config, "groups")
    if config.get("use_double_wide_mlp"):
        keys["feed_forward_length"] = _by_layer(config, "feed-forward")
    if config.get("moe_intermediate_size") is not None:
        keys["expert_feed_forward_length"] = Value.u32(config.integer("moe_intermediate_size"))
    found = decoder_keys(config, "gemma4") | rope_keys(config, "gemma4", ("proportional",))
    return found | {f"gemma4.{key}": value for key, value in keys.items()}


def _by_layer(config: Section, size: str) -> Value:
    layers = range(config.integer("num_hidden_layers"))
    return Value.array(ValueType.INT32, np.array([layer_sizes(config, layer)[size] for layer in layers], np.int32))


def _check(config: Section) -> None:
    """What llama.cpp's graph takes for granted."""
    taken_for_granted(config, hidden_activation="gelu_pytorch_tanh", attention_bias=False)
    if config.get("use_bidirectional_attention") not in (None, False, "vision"):
        found = config.get("use_bidirectional_attention")
        raise config.error("use_bidirectional_attention", "null or 'vision', as llama.cpp computes it", found)
    if config.get("hidden_size_per_layer_input"):
        taken_for_granted(config, vocab_size_per_layer_input=config.integer("vocab_size"))
    if config.get("enable_moe_block"):
        config.integer("top_k_experts")
    if (factor := rope(config, ("proportional",)).get("factor", 1)) != 1:
        raise config.error("rope_parameters.full_attention.factor", "1, as llama.cpp computes it", factor)
    slides, count = sliding(config), config.integer("num_kv_shared_layers", least=0)
    if not any(slides):
        raise config.error("layer_types", "some sliding_attention, as llama.cpp needs for Gemma 4", "none")
    if count and slides[: max(len(slides) - count, 0)][-2:] != [True, False]:
        expected = "so many that the layers before are sliding_attention, full_attention: llama.cpp shares those two"
        raise config.error("num_kv_shared_layers", expected, count)


def _computed(config: Section) -> dict[str, Floats]:
    """What the frequencies of layers that attend to all are divided by, float32 [head / 2]."""
    half = full(config).integer("head_dim") // 2
    turned = rope(config, ("proportional",)).number("partial_rotary_factor", 1.0)
    return {"rope_freqs.weight": np.where(np.arange(half) < int(half * turned), 1.0, _NOT_TURNED).astype(np.float32)}


GEMMA4 = Architecture(
    classes=("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"),
    gguf=gguf.MODEL_ARCH.GEMMA4,
    # transformers' Gemma4TextConfig
    defaults=MappingProxyType(
        {
            "vocab_size": 262_144,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 30,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "global_head_dim": 512,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "sliding_window": 512,
            "vocab_size_per_layer_input": 262_144,
            "hidden_size_per_layer_input": 256,
            "num_kv_shared_layers": 0,
        }
    ),
    derived=lambda config: {"rope_parameters": _ROPE},
    layers="num_hidden_layers",
    sizes=layer_sizes,
    rules=MappingProxyType(
        EMBEDDING
        | ATTENTION
        | _KEYS_AND_VALUES
        | FEED_FORWARD
        | _NORMS
        | only(has("enable_moe_block"), _EXPERTS)
        | only(has("hidden_size_per_layer_input"), _LAYER_INPUTS)
    ),
    metadata=_metadata,
    vocabulary=gemma4,
    steps=(
        experts(),
        united(r"(.+\.experts)\.(gate|up)_proj\.weight", ("gate", "up"), r"\1.gate_up_proj"),
        renamed(r"(\.layer_scalar|\.experts\.(?:gate_up|down)_proj)$", r"\1.weight"),
        renamed(r"(?:model\.)?layers\.(\d+)\.router\.scale", r"blk.\1.ffn_gate_inp.scale"),
        renamed(r"(?:model\.)?layers\.(\d+)\.router\.per_expert_scale", r"blk.\1.ffn_down_exps.scale"),
    ),
    computed=_computed,
    ignored=r"(model\.)?(embed_)?(vision|audio)(_\w+)?\.",
)


def _suppressed(checkpoint: Checkpoint, config: Section) -> Metadata:
    """The tokens that are never to be written, as generation_config.json has them."""
    generation, size = checkpoint.json("generation_config.json"), config.integer("vocab_size")
    if generation is None or generation.get("suppress_tokens") is None:
        return {}
    tokens = generation.items("suppress_tokens")
    if not all(type(token) is int and 0 <= token < size for token in tokens):
        raise generation.error("suppress_tokens", f"token ids under {size:,}", tokens)
    return {"tokenizer.ggml.suppress_tokens": Value.array(ValueType.INT32, np.array(tokens, np.int32))}


GEMMA4_UNIFIED = replace(
    GEMMA4,
    classes=("Gemma4UnifiedForConditionalGeneration",),
    beside=_suppressed,
    # transformers' Gemma4UnifiedTextConfig
    defaults=MappingProxyType(
        {
            **GEMMA4.defaults,
            "max_position_embeddings": 262_144,
            "sliding_window": 1024,
            "hidden_size_per_layer_input": 0,
        }
    ),
)
