"""GPT-OSS: experts with biases, attention with sinks, every other layer with a sliding window.

The experts are published in MXFP4, which goes into the file as it is; fine-tuned checkpoints have them in BF16, each
matrix transposed. Either way the rows of gate and up alternate in one tensor; llama.cpp has two.

The published configurations say `truncate: false`: YaRN's ramp between the frequencies that it keeps and those that it
stretches shall start and end between two of them (8.1 and 17.4 of 32). llama.cpp takes whole ones (8 and 18) and has no
key for it, so every GGUF file of these models is off by that.
"""

from __future__ import annotations

from types import MappingProxyType

import gguf
import numpy as np

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule, Sources
from quantpress.convert.decoder import (
    ATTENTION,
    ATTENTION_BIASES,
    EMBEDDING,
    EXPERTS,
    decoder_keys,
    decoder_sizes,
    in_layers,
    taken_for_granted,
)
from quantpress.convert.mxfp4 import mxfp4
from quantpress.convert.rope import rope_keys
from quantpress.convert.sources import Source, reordered, reordered_columns, transposed
from quantpress.convert.steps import renamed
from quantpress.convert.vocabulary import automatic
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value

__all__ = ["GPT_OSS"]

_KINDS = ("sliding_attention", "full_attention")
_HALVES = ("gate", "up")

_RULES = MappingProxyType(
    EMBEDDING
    | ATTENTION
    | ATTENTION_BIASES
    | EXPERTS
    | in_layers(
        {
            "attn_output.bias": Rule(("hidden",)),
            "attn_sinks.weight": Rule(("heads",)),
            "post_attention_norm.weight": Rule(("hidden",)),
            "ffn_gate_inp.bias": Rule(("experts",)),
            "ffn_gate_exps.bias": Rule(("experts", "expert")),
            "ffn_up_exps.bias": Rule(("experts", "expert")),
            "ffn_down_exps.bias": Rule(("experts", "hidden")),
        }
    )
)


def _parted(sources: Sources, config: Section) -> Sources:
    """`gate_up` cut into its even rows, gate, and its odd ones, up; experts that are no blocks are [.., in, out]."""
    del config
    found: Sources = {}
    for name, source in sources.items():
        turned = name.endswith((".experts.gate_up_proj", ".experts.down_proj"))
        if turned and len(source.shape) != 3:
            found_ = list(source.shape)
            raise CheckpointError(source.path, f"{source.name}: shape", expected="three sizes", found=found_)
        new = f"{name}.weight" if turned else name
        for number, half in enumerate(_HALVES if ".experts.gate_up_proj" in name else ()):
            columns = turned or name.endswith(".bias")
            part = _every_other(source, number, columns=columns)
            found[new.replace("gate_up", half)] = transposed(part) if turned else part
        if ".experts.gate_up_proj" not in name:
            found[new] = transposed(source) if turned else source
    return found


def _every_other(source: Source, first: int, *, columns: bool) -> Source:
    """Every other column, or row of each matrix, from the first on."""
    *outer, height, width = source.shape
    if (width if columns else height) % 2:
        expected, shape = "an even number of rows of gate and up", list(source.shape)
        raise CheckpointError(source.path, f"{source.name}: shape", expected=expected, found=shape)
    if columns:
        return reordered_columns(source, np.arange(first, width, 2))
    return reordered(source, lambda row: 2 * row + first, (*outer, height // 2, width))


def _metadata(config: Section) -> Metadata:
    _check(config)
    return (
        decoder_keys(config, "gpt-oss")
        | rope_keys(config, "gpt-oss", ("default", "linear", "yarn"))
        | {
            "gpt-oss.attention.sliding_window": Value.u32(config.integer("sliding_window")),
            "gpt-oss.expert_feed_forward_length": Value.u32(config.integer("intermediate_size")),
        }
    )


def _check(config: Section) -> None:
    """What llama.cpp's graph takes for granted."""
    kinds = [_KINDS[layer % 2] for layer in range(config.integer("num_hidden_layers"))]
    taken_for_granted(config, hidden_act="silu", swiglu_alpha=1.702, swiglu_limit=7.0)
    taken_for_granted(config, attention_bias=True, tie_word_embeddings=False)
    if config.items("layer_types") not in ([], kinds):
        raise config.error("layer_types", f"{' and '.join(_KINDS)} in turn", config.get("layer_types"))


# what transformers assumes where config.json has no rope
_ROPE = {
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
}

GPT_OSS = Architecture(
    classes=("GptOssForCausalLM",),
    gguf=gguf.MODEL_ARCH.GPT_OSS,
    layers="num_hidden_layers",
    sizes=decoder_sizes,
    rules=_RULES,
    metadata=_metadata,
    vocabulary=automatic,
    # transformers' GptOssConfig
    defaults=MappingProxyType(
        {
            "vocab_size": 201_088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 36,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "hidden_act": "silu",
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "sliding_window": 128,
        }
    ),
    derived=lambda config: {} if config.get("rope_scaling") or config.get("rope_parameters") else _ROPE,
    steps=(
        mxfp4(r".+\.experts\.(?:gate_up|down)_proj", r"\g<0>.weight"),
        renamed(r"(.+\.experts\.(?:gate_up|down)_proj)_bias$", r"\1.bias"),
        renamed(r"(.+\.self_attn\.sinks)$", r"\1.weight"),
        _parted,
    ),
)
