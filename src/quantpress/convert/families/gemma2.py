"""Gemma 2: every other layer attends to a sliding window; attention scores and logits are capped by a tanh.

llama.cpp's converter writes nothing of its rope, which has always had the base 10,000; for another base or linear
scaling we write the keys, which llama.cpp reads for every architecture.
"""

from __future__ import annotations

from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture
from quantpress.convert.decoder import (
    decoder_keys,
    decoder_sizes,
    sliding_layers,
    sliding_window_keys,
    taken_for_granted,
)
from quantpress.convert.families.gemma import LAYERS, query_scale, vocabulary
from quantpress.convert.rope import rope_keys
from quantpress.gguf import Metadata, Value

__all__ = ["GEMMA2"]

_LAYERS_27B = 46
_PATTERN = 2
_THETA = 10_000.0


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    scale = query_scale(config, _LAYERS_27B)
    if config.get("query_pre_attn_scalar") == config.integer("hidden_size") // config.integer("num_attention_heads"):
        # 224 in early files of the 9B, a mistake that Google corrected to the 256 that llama.cpp computes with
        scale = config.integer("query_pre_attn_scalar")
    taken_for_granted(
        config,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=scale,
        use_bidirectional_attention=False,
        attention_bias=False,
        tie_word_embeddings=True,
    )
    if not any(sliding_layers(config, _PATTERN)):
        raise config.error("layer_types", "some sliding_attention, as llama.cpp needs for Gemma 2", "none")
    found = decoder_keys(config, "gemma2") | sliding_window_keys(config, "gemma2", _PATTERN)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):  # llama.cpp always caps
        found[f"gemma2.{key}"] = Value.f32(config.number(key))
    rope = rope_keys(config, "gemma2", ("default", "linear"))
    return found | {key: value for key, value in rope.items() if value != Value.f32(_THETA)}


GEMMA2 = Architecture(
    classes=("Gemma2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.GEMMA2,
    # transformers' Gemma2Config
    defaults=MappingProxyType(
        {
            "vocab_size": 256_000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "rope_theta": _THETA,
            "use_bidirectional_attention": False,
        }
    ),
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType({name: rule for name, rule in LAYERS.items() if name != "output.weight"}),
    metadata=_metadata,
    vocabulary=vocabulary,
)
