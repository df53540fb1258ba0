"""Command-R and R+ (Cohere), Command R7B and A (Cohere 2): attention and feed-forward side by side, after one norm.

The output is the embedding, its logits are scaled. In R+ queries and keys have a norm for each head, which llama.cpp
expects in models of 64 layers or more and in no others. In Cohere 2 three layers in four attend to a sliding window,
and only those have positions.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule, Sources
from quantpress.convert.decoder import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_MATRICES,
    decoder_keys,
    decoder_sizes,
    has,
    in_layers,
    only,
    sliding_window_keys,
    taken_for_granted,
)
from quantpress.convert.rope import rope_keys
from quantpress.convert.vocabulary import automatic
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value

__all__ = ["COHERE2", "COMMAND_R"]

_NORMED = 64  # layers, from which on llama.cpp expects norms of queries and keys
_PATTERN = 4

_HEAD_NORMS = in_layers(
    {
        "attn_q_norm.weight": Rule(("heads", "head")),
        "attn_k_norm.weight": Rule(("groups", "head")),
    }
)
_EMBEDDING = {name: rule for name, rule in EMBEDDING.items() if name != "output.weight"}
_RULES = _EMBEDDING | ATTENTION | FEED_FORWARD_MATRICES


def _common(config: Section, name: str) -> Metadata:
    """What both have; raises CheckpointError for what llama.cpp's graphs do not compute."""
    head = config.integer("hidden_size") // config.integer("num_attention_heads")
    taken_for_granted(config, hidden_act="silu", attention_bias=False, tie_word_embeddings=True, head_dim=head)
    keys = {
        f"{name}.logit_scale": Value.f32(config.number("logit_scale")),
        f"{name}.rope.scaling.type": Value.string("none"),
    }
    return decoder_keys(config, name) | rope_keys(config, name, ("default",)) | keys


def _metadata(config: Section) -> Metadata:
    layers = config.integer("num_hidden_layers")
    if bool(config.get("use_qk_norm")) != (layers >= _NORMED):
        expected = f"{layers >= _NORMED}, as llama.cpp takes for granted of {layers} layers"
        raise config.error("use_qk_norm", expected, config.get("use_qk_norm"))
    # max_position_embeddings is 8192 in models for far longer contexts
    context = config.integer("model_max_length", config.get("max_position_embeddings"))
    return _common(config, "command-r") | {"command-r.context_length": Value.u32(context)}


def _sliding_metadata(config: Section) -> Metadata:
    """Those of Cohere 2."""
    taken_for_granted(config, rotary_pct=1.0)
    head = config.integer("hidden_size") // config.integer("num_attention_heads")
    keys = {
        "vocab_size": Value.u32(config.integer("vocab_size")),
        "rope.dimension_count": Value.u32(head),
    }
    named = {f"cohere2.{key}": value for key, value in keys.items()}
    return _common(config, "cohere2") | sliding_window_keys(config, "cohere2", _PATTERN) | named


def _zero_biases(sources: Sources, config: Section) -> Sources:
    """Without the biases of the published files, which are zero; raises CheckpointError for one that is not."""
    del config
    for name, source in sources.items():
        if name.endswith(".bias") and source.floats().any():
            raise CheckpointError(source.path, name, expected="zeros, as llama.cpp has no biases here", found="others")
    return {name: source for name, source in sources.items() if not name.endswith(".bias")}


COMMAND_R = Architecture(
    classes=("CohereForCausalLM",),
    gguf=gguf.MODEL_ARCH.COMMAND_R,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType(_RULES | only(has("use_qk_norm"), _HEAD_NORMS)),
    metadata=_metadata,
    vocabulary=automatic,
    defaults=MappingProxyType(
        {
            "vocab_size": 256_000,
            "logit_scale": 0.0625,
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_theta": 10_000.0,
        }
    ),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
)

COHERE2 = replace(
    COMMAND_R,
    classes=("Cohere2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.COHERE2,
    rules=MappingProxyType(_RULES),
    metadata=_sliding_metadata,
    defaults=MappingProxyType({**COMMAND_R.defaults, "sliding_window": 4096}),
    derived=lambda config: {
        "num_key_value_heads": config.integer("num_attention_heads"),
        "head_dim": config.integer("hidden_size") // config.integer("num_attention_heads"),
    },
    steps=(_zero_biases,),
)
