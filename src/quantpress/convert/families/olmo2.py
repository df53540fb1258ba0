"""OLMo 2 and OLMo 3: norms follow the attention and the feed-forward; queries and keys are normed over all heads.

In OLMo 3 three layers in four attend to a sliding window; those keep their positions where the others' are scaled.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule
from quantpress.convert.decoder import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD_MATRICES,
    decoder_keys,
    decoder_sizes,
    in_layers,
    sliding_layers,
    taken_for_granted,
)
from quantpress.convert.rope import check_yarn, rope, rope_keys
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["OLMO2", "OLMO3"]

_SCALINGS = ("default", "linear", "yarn")
_PATTERN = 4

_NORMS = in_layers(
    {
        "attn_q_norm.weight": Rule(("queries",)),
        "attn_k_norm.weight": Rule(("keys",)),
        "post_attention_norm.weight": Rule(("hidden",)),
        "post_ffw_norm.weight": Rule(("hidden",)),
    }
)
_ATTENTION = {name: rule for name, rule in ATTENTION.items() if not name.endswith("attn_norm.weight")}
_RULES = EMBEDDING | _ATTENTION | FEED_FORWARD_MATRICES | _NORMS


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    heads = config.integer("num_attention_heads")
    taken_for_granted(
        config,
        hidden_act="silu",
        attention_bias=False,
        tie_word_embeddings=False,
        head_dim=config.integer("hidden_size") // heads,
    )
    check_yarn(config)
    return decoder_keys(config, "olmo2") | rope_keys(config, "olmo2", _SCALINGS)


def _sliding_metadata(config: Section) -> Metadata:
    """Those of OLMo 3."""
    found = _metadata(config)
    found["olmo2.attention.sliding_window"] = Value.u32(config.integer("sliding_window"))
    found["olmo2.attention.sliding_window_pattern"] = Value.array(ValueType.BOOL, sliding_layers(config, _PATTERN))
    theta = rope(config, _SCALINGS).number("rope_theta")
    sliding = rope(config, ("default",), "sliding_attention")
    if (base := sliding.number("rope_theta", theta)) != theta:
        raise sliding.error("rope_theta", f"{theta:g}, as llama.cpp computes all layers with it", base)
    return found | {"olmo2.rope.freq_base_swa": Value.f32(theta)}


OLMO2 = Architecture(
    classes=("Olmo2ForCausalLM",),
    gguf=gguf.MODEL_ARCH.OLMO2,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=MappingProxyType(_RULES),
    metadata=_metadata,
    vocabulary=automatic,
    defaults=MappingProxyType(
        {"vocab_size": 50_304, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0}
    ),
    derived=lambda config: {"num_key_value_heads": config.integer("num_attention_heads")},
)

OLMO3 = replace(
    OLMO2,
    classes=("Olmo3ForCausalLM",),
    metadata=_sliding_metadata,
    defaults=MappingProxyType({**OLMO2.defaults, "rope_theta": 500_000.0, "sliding_window": 4096}),
)
