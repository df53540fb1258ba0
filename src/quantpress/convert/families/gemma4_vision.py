"""The half of Gemma 4 that sees: patches of any number, placed by two tables, through layers normed as the text's are.

A patch is stored as its pixels, colours innermost; llama.cpp takes colours outermost, as a convolution does. Of a
checkpoint with `use_clipped_linears` each matrix comes with four numbers, to which what goes in and out is clipped. The
half that hears (E2B, E4B) is left out.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule, Sizes
from quantpress.convert.decoder import has, only, taken_for_granted
from quantpress.convert.families.vision import (
    ALWAYS_F32,
    in_vision_layers,
    preprocessor,
    vision_keys,
    vision_sizes,
)
from quantpress.convert.sources import Source, reordered_columns, reshaped
from quantpress.convert.steps import renamed
from quantpress.gguf import Metadata, Value

__all__ = ["GEMMA4_VISION"]

_KERNEL = 3
"""Patches a side that become one token, of every published size."""

_IMAGE_SIZE = 224  # llama.cpp asks for one, and uses it for nothing
_ROPE_BASE = 100.0


def _sizes(config: Section, layer: int | None = None) -> Sizes:
    places = config.integer("position_embedding_size")
    return {**vision_sizes(config, layer), "axes": 2, "places": places, "one": 1}


def _colours_outermost(source: Source, sizes: Sizes) -> Source:
    """[hidden, rows × columns × colours] to [hidden, colours, rows, columns]."""
    patch, channels = sizes["patch"], sizes["channels"]
    if source.cols != patch * patch * channels:
        return source
    order = np.arange(source.cols).reshape(patch, patch, channels).transpose(2, 0, 1).reshape(-1)
    return reshaped(reordered_columns(source, order), (source.shape[0], channels, patch, patch))


def _metadata(config: Section) -> Metadata:
    sizes = _sizes(config)
    taken_for_granted(config, hidden_activation="gelu_pytorch_tanh", attention_bias=False, head_dim=sizes["head"])
    taken_for_granted(config, num_key_value_heads=config.integer("num_attention_heads"))
    taken_for_granted(config.section("rope_parameters"), rope_theta=_ROPE_BASE)
    found = {
        **vision_keys(config, "rms_norm_eps"),
        "clip.vision.projector_type": Value.string("gemma4v"),
        "clip.use_gelu": Value.bool_(True),
    }
    if (kernel := config.integer("pooling_kernel_size")) != _KERNEL:
        found["clip.vision.projector.scale_factor"] = Value.u32(kernel)
    return found


def _beside(checkpoint: Checkpoint, config: Section) -> Metadata:
    del config
    return preprocessor(checkpoint)[1]


_MATRICES = {
    "attn_q": ("hidden", "hidden"),
    "attn_k": ("hidden", "hidden"),
    "attn_v": ("hidden", "hidden"),
    "attn_out": ("hidden", "hidden"),
    "ffn_gate": ("feed-forward", "hidden"),
    "ffn_up": ("feed-forward", "hidden"),
    "ffn_down": ("hidden", "feed-forward"),
}
_BOUNDS = ("input_min", "input_max", "output_min", "output_max")

_LAYERS = in_vision_layers(
    {
        **{name: Rule(("hidden",)) for name in ("ln1.weight", "ln2.weight")},
        **{name: Rule(("hidden",)) for name in ("attn_post_norm.weight", "ffn_post_norm.weight")},
        **{name: Rule(("head",)) for name in ("attn_q_norm.weight", "attn_k_norm.weight")},
        **{f"{name}.weight": Rule(shape) for name, shape in _MATRICES.items()},
    }
)
_CLIPPED = in_vision_layers({f"{name}.{bound}": Rule(("one",)) for name in _MATRICES for bound in _BOUNDS})

_DEFAULTS: dict[str, Any] = {  # transformers' Gemma4VisionConfig
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "pooling_kernel_size": _KERNEL,
    "patch_size": 16,
    "position_embedding_size": 10_240,
    "image_size": _IMAGE_SIZE,
}

GEMMA4_VISION = Architecture(
    classes=("Gemma4ForConditionalGeneration",),
    gguf=gguf.MODEL_ARCH.MMPROJ,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=MappingProxyType(
        {
            "v.patch_embd.weight": Rule(
                ("hidden", "channels", "patch", "patch"), (_colours_outermost,), reshapes=True, types={"BF16": "F32"}
            ),
            "v.position_embd.weight": Rule(("axes", "places", "hidden"), types=ALWAYS_F32),
            "mm.input_projection.weight": Rule(("projection", "hidden")),
            **only(has("standardize"), {"v.std_bias": Rule(("hidden",)), "v.std_scale": Rule(("hidden",))}),
        }
        | _LAYERS
        | only(has("use_clipped_linears"), _CLIPPED)
    ),
    metadata=_metadata,
    beside=_beside,
    defaults=MappingProxyType(_DEFAULTS),
    steps=(
        renamed(r"^(?!model\.)", "model."),
        renamed(r"^model\.vision_tower\.encoder\.", "vision_model.model."),
        renamed(r"\.linear\.weight$", ".weight"),
        renamed(r"position_embedding_table$", "position_embedding_table.weight"),
    ),
    ignored=r"(?!(model\.)?(vision_tower|embed_vision)\.)",
)
