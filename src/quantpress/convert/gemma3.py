"""Gemma 3: `gemma3_text`, and the text half of `gemma3` (its vision half makes a file of its own).

Five layers attend to a sliding window, the sixth to all, with another rope base. llama.cpp knows that pattern by
itself; for another one we write `attention.sliding_window_pattern`, which it reads, though its own converter
never writes it for this architecture.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gguf

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule, Sizes
from quantpress.convert.sources import only_vocabulary, plus_one
from quantpress.convert.special_tokens import special_tokens
from quantpress.convert.vocabulary import sentencepiece_vocabulary
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["GEMMA3"]

_LAYERS_27B = 62
_PATTERN = 6


def _sizes(config: Section, layer: int | None) -> Sizes:
    del layer  # all alike
    head = config.integer("head_dim")
    return {
        "vocabulary": config.integer("vocab_size"),
        "hidden": config.integer("hidden_size"),
        "feed-forward": config.integer("intermediate_size"),
        "head": head,
        "heads": head * config.integer("num_attention_heads"),
        "KV heads": head * config.integer("num_key_value_heads"),
    }


def _norm(size: str) -> Rule:
    return Rule((size,), (plus_one,))


_RULES = MappingProxyType(
    {
        "token_embd.weight": Rule(("vocabulary", "hidden"), (only_vocabulary,)),
        "output.weight": Rule(("vocabulary", "hidden"), (only_vocabulary,), required=False),
        "output_norm.weight": _norm("hidden"),
        "blk.{bid}.attn_norm.weight": _norm("hidden"),
        "blk.{bid}.attn_q.weight": Rule(("heads", "hidden")),
        "blk.{bid}.attn_k.weight": Rule(("KV heads", "hidden")),
        "blk.{bid}.attn_v.weight": Rule(("KV heads", "hidden")),
        "blk.{bid}.attn_output.weight": Rule(("hidden", "heads")),
        "blk.{bid}.attn_q_norm.weight": _norm("head"),
        "blk.{bid}.attn_k_norm.weight": _norm("head"),
        "blk.{bid}.post_attention_norm.weight": _norm("hidden"),
        "blk.{bid}.ffn_norm.weight": _norm("hidden"),
        "blk.{bid}.ffn_gate.weight": Rule(("feed-forward", "hidden")),
        "blk.{bid}.ffn_up.weight": Rule(("feed-forward", "hidden")),
        "blk.{bid}.ffn_down.weight": Rule(("hidden", "feed-forward")),
        "blk.{bid}.post_ffw_norm.weight": _norm("hidden"),
    }
)


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    _check(config)
    whole, sliding = _rope(config)
    found: Metadata = {
        "gemma3.block_count": Value.u32(config.integer("num_hidden_layers")),
        "gemma3.context_length": Value.u32(config.integer("max_position_embeddings")),
        "gemma3.embedding_length": Value.u32(config.integer("hidden_size")),
        "gemma3.feed_forward_length": Value.u32(config.integer("intermediate_size")),
        "gemma3.attention.head_count": Value.u32(config.integer("num_attention_heads")),
        "gemma3.attention.head_count_kv": Value.u32(config.integer("num_key_value_heads")),
        "gemma3.attention.layer_norm_rms_epsilon": Value.f32(config.number("rms_norm_eps")),
        "gemma3.attention.key_length": Value.u32(config.integer("head_dim")),
        "gemma3.attention.value_length": Value.u32(config.integer("head_dim")),
    }
    if whole.get("rope_type") == "linear":
        found["gemma3.rope.scaling.type"] = Value.string("linear")
        found["gemma3.rope.scaling.factor"] = Value.f32(whole.number("factor"))
    found["gemma3.rope.freq_base"] = Value.f32(whole.number("rope_theta"))
    found["gemma3.rope.freq_base_swa"] = Value.f32(sliding.number("rope_theta"))
    if config.get("final_logit_softcapping"):
        found["gemma3.final_logit_softcapping"] = Value.f32(config.number("final_logit_softcapping"))
    return found | _attention(config)


def _attention(config: Section) -> Metadata:
    """The sliding window, and which layers have it where that is not five in six."""
    layers = config.integer("num_hidden_layers")
    sliding = _sliding_layers(config, layers)
    if not any(sliding):
        return {}
    found = {"gemma3.attention.sliding_window": Value.u32(config.integer("sliding_window"))}
    if sliding != [bool((layer + 1) % _PATTERN) for layer in range(layers)]:
        found["gemma3.attention.sliding_window_pattern"] = Value.array(ValueType.BOOL, sliding)
    return found


def _sliding_layers(config: Section, layers: int) -> list[bool]:
    """Whether each layer slides: from `layer_types`, or from the pattern of older configurations."""
    kinds = config.items("layer_types")
    if not kinds:
        pattern = config.integer("sliding_window_pattern", config.get("_sliding_window_pattern", _PATTERN))
        return [bool((layer + 1) % pattern) for layer in range(layers)]
    if len(kinds) != layers or any(kind not in ("sliding_attention", "full_attention") for kind in kinds):
        raise config.error("layer_types", f"{layers} of sliding_attention or full_attention", kinds)
    return [kind == "sliding_attention" for kind in kinds]


def _rope(config: Section) -> tuple[Section, Section]:
    """The rope of whole and of sliding layers, each with `rope_theta` and `rope_type`.

    Newer configurations have `rope_parameters` with an object a kind of layer; older ones have `rope_theta`,
    `rope_local_base_freq`, and `rope_scaling`, which is for the whole layers.
    """
    parameters = config.section("rope_parameters")
    if parameters.values and not {"full_attention", "sliding_attention"} & parameters.values.keys():
        raise config.error("rope_parameters", "full_attention and sliding_attention", parameters.values)
    whole = parameters.section("full_attention").merged(config.section("rope_scaling").values)
    sliding = parameters.section("sliding_attention")
    return (
        _completed(whole, config.get("rope_theta", 1e6), ("default", "linear")),
        _completed(sliding, config.get("rope_local_base_freq", 1e4), ("default",)),
    )


def _completed(rope: Section, theta: Any, known: tuple[str, ...]) -> Section:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in known:
        raise rope.error("rope_type", " or ".join(known), kind)
    return rope.merged({"rope_type": kind, "rope_theta": rope.get("rope_theta", theta)})


def _check(config: Section) -> None:
    """What llama.cpp's graph takes for granted."""
    heads, layers = config.integer("num_attention_heads"), config.integer("num_hidden_layers")
    scale = config.integer("hidden_size") // heads if layers == _LAYERS_27B else config.integer("head_dim")
    for key, expected in (
        ("hidden_activation", "gelu_pytorch_tanh"),
        ("query_pre_attn_scalar", scale),
        ("attn_logit_softcapping", None),
        ("use_bidirectional_attention", False),
    ):
        if config.get(key) != expected:
            raise config.error(key, f"{expected!r}, as llama.cpp computes it", config.get(key))


def _vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    return (
        sentencepiece_vocabulary(checkpoint, size)
        | special_tokens(checkpoint, size)
        | {"tokenizer.ggml.add_space_prefix": Value.bool_(False)}
    )


GEMMA3 = Architecture(
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    gguf=gguf.MODEL_ARCH.GEMMA3,
    # transformers' Gemma3TextConfig; the published 4B to 27B leave most of it out
    defaults=MappingProxyType(
        {
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "use_bidirectional_attention": False,
        }
    ),
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=_RULES,
    metadata=_metadata,
    vocabulary=_vocabulary,
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\.|.*\.rotary_emb\.inv_freq$",
)
