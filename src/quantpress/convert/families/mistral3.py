"""Ministral 3 and Devstral 2, and the text half of Mistral Small 3.1 and later: Llama's form under a name of its own.

In Ministral 3 the queries grow with their position, from the length on that the model was first trained with. Mistral
Small has neither that nor a scaled rope. The image half of both is left out.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.decoder import decoder_keys, head_size, taken_for_granted
from quantpress.convert.families.llama import LLAMA
from quantpress.convert.rope import check_yarn, rope, rope_keys
from quantpress.gguf import Metadata, Value

__all__ = ["MISTRAL3"]

_GROWING = "ministral3"
_KINDS = (_GROWING, "mistral", "mistral3")  # the last where the text half does not say


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    if config.get("model_type") not in _KINDS:
        raise config.error("model_type", f"one of {', '.join(_KINDS)}", config.get("model_type"))
    taken_for_granted(config, hidden_act="silu")
    context = config.integer("max_position_embeddings")
    if config.get("sliding_window") and config.integer("sliding_window") < context:
        raise config.error("sliding_window", "none, as llama.cpp attends to all", config.get("sliding_window"))
    keys = {
        "mistral3.vocab_size": Value.u32(config.integer("vocab_size")),
        "mistral3.rope.dimension_count": Value.u32(head_size(config)),
    }
    return decoder_keys(config, "mistral3") | rope_keys(config, "mistral3") | keys | _growth(config)


def _growth(config: Section) -> Metadata:
    """How queries grow, and the yarn that goes with it."""
    if config.get("model_type") != _GROWING:
        check_yarn(config, betas=True)
        return {}
    found = rope(config, ("yarn",))
    all_dim, beta = (_least_zero(found, field) for field in ("mscale_all_dim", "llama_4_scaling_beta"))
    check_yarn(config, betas=True, all_dim=all_dim)
    return {
        "mistral3.rope.scaling.yarn_log_multiplier": Value.f32(all_dim),
        "mistral3.attention.temperature_scale": Value.f32(beta),
    }


def _least_zero(found: Section, field: str) -> float:
    return 0.0 if found.get(field) == 0 else found.number(field)


def _derived(config: Section) -> dict[str, Any]:
    """Ministral 3 has other defaults than Mistral."""
    if config.get("model_type") == _GROWING:
        return {"rms_norm_eps": 1e-5, "head_dim": 128, "max_position_embeddings": 262_144}
    return {"rms_norm_eps": 1e-6, "head_dim": head_size(config), "max_position_embeddings": 131_072}


MISTRAL3 = replace(
    LLAMA,
    classes=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    gguf=gguf.MODEL_ARCH.MISTRAL3,
    metadata=_metadata,
    defaults=MappingProxyType({"vocab_size": 131_072, "num_key_value_heads": 8, "rope_theta": 10_000.0}),
    derived=_derived,
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\.",
)
