"""Gemma 3: `gemma3_text`, and the text half of `gemma3` (its vision half makes a file of its own).

Five layers attend to a sliding window, the sixth to all, with another rope base.
"""

from __future__ import annotations

from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture
from quantpress.convert.decoder import (
    decoder_keys,
    decoder_sizes,
    in_layers,
    sliding_layers,
    sliding_window_keys,
    taken_for_granted,
)
from quantpress.convert.families.gemma import LAYERS, norm, query_scale, vocabulary
from quantpress.convert.rope import LAYER_KINDS, rope, rope_keys
from quantpress.gguf import Metadata, Value

__all__ = ["GEMMA3"]

_LAYERS_27B = 62
_PATTERN = 6

_RULES = MappingProxyType(LAYERS | in_layers({"attn_q_norm.weight": norm("head"), "attn_k_norm.weight": norm("head")}))


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    taken_for_granted(
        config,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=query_scale(config, _LAYERS_27B),
        attn_logit_softcapping=None,
        use_bidirectional_attention=False,
        attention_bias=False,
    )
    parameters = config.section("rope_parameters").values
    if parameters and not parameters.keys() & set(LAYER_KINDS):
        raise config.error("rope_parameters", " and ".join(LAYER_KINDS), parameters)
    sliding = rope(config, ("default",), "sliding_attention")
    found = decoder_keys(config, "gemma3") | rope_keys(config, "gemma3", ("default", "linear"))
    found["gemma3.rope.freq_base_swa"] = Value.f32(sliding.number("rope_theta"))
    if config.get("final_logit_softcapping"):
        found["gemma3.final_logit_softcapping"] = Value.f32(config.number("final_logit_softcapping"))
    if any(sliding_layers(config, _PATTERN)):
        found |= sliding_window_keys(config, "gemma3", _PATTERN)
    return found


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
            "tie_word_embeddings": True,
            "sliding_window": 4096,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "use_bidirectional_attention": False,
        }
    ),
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=_RULES,
    metadata=_metadata,
    vocabulary=vocabulary,
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\.",
)
