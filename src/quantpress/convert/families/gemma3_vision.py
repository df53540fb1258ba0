"""The half of Gemma 3 (4B to 27B) that sees: a SigLIP tower, then means of patches, a norm and a matrix.

llama.cpp's clip graph takes means of 4 by 4 patches unless a key says otherwise. The matrix is stored with the tower's
dimension outermost, and stays so. It is F16 in every file: llama.cpp's other matrix types fail on it on some GPUs.
"""

from __future__ import annotations

import math
from types import MappingProxyType

import gguf

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule, Sizes
from quantpress.convert.decoder import taken_for_granted, with_bias
from quantpress.convert.families.gemma import plus_one
from quantpress.convert.families.vision import (
    ALWAYS_F16,
    ALWAYS_F32,
    in_vision_layers,
    preprocessor,
    vision_keys,
    vision_sizes,
)
from quantpress.convert.steps import renamed
from quantpress.gguf import Metadata, Value

__all__ = ["GEMMA3_VISION"]

_TOKENS = 256
_KERNEL = 4
"""Patches a side that become one token, of every published size."""


def _sizes(config: Section, layer: int | None = None) -> Sizes:
    return {**vision_sizes(config, layer), "positions": _patches(config) ** 2}


def _patches(config: Section) -> int:
    """Patches a side."""
    image, patch = config.integer("image_size"), config.integer("patch_size")
    if image % patch:
        raise config.error("image_size", f"a multiple of patch_size, {patch}", image)
    return image // patch


def _metadata(config: Section) -> Metadata:
    taken_for_granted(config, hidden_act="gelu_pytorch_tanh", num_channels=3)
    return {
        **vision_keys(config, "layer_norm_eps"),
        "clip.projector_type": Value.string("gemma3"),
        "clip.use_gelu": Value.bool_(True),
    }


def _beside(checkpoint: Checkpoint, config: Section) -> Metadata:
    """How pixels are scaled, and the means' size where it is not the usual one."""
    settings, found = preprocessor(checkpoint)
    tokens = config.integer("mm_tokens_per_image", _TOKENS)
    if (given := settings.integer("image_seq_length", tokens)) != tokens:
        raise settings.error("image_seq_length", f"mm_tokens_per_image of config.json, {tokens}", given)
    side, patches = math.isqrt(tokens), _patches(config)
    if side**2 != tokens or patches % side:
        expected = f"the square of a divisor of the {patches} patches a side"
        raise config.error("mm_tokens_per_image", expected, tokens)
    if (kernel := patches // side) != _KERNEL:
        found["clip.vision.projector.scale_factor"] = Value.u32(kernel)
    return found


GEMMA3_VISION = Architecture(
    classes=("Gemma3ForConditionalGeneration",),
    gguf=gguf.MODEL_ARCH.MMPROJ,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=MappingProxyType(
        {
            "v.patch_embd.weight": Rule(("hidden", "channels", "patch", "patch"), types=ALWAYS_F32),
            "v.patch_embd.bias": Rule(("hidden",)),
            "v.position_embd.weight": Rule(("positions", "hidden"), types=ALWAYS_F32),
            **with_bias("v.post_ln", "hidden"),
            "mm.input_projection.weight": Rule(("hidden", "projection"), types=ALWAYS_F16),
            "mm.soft_emb_norm.weight": Rule(("hidden",), (plus_one,)),
        }
        | in_vision_layers(
            {
                **with_bias("ln1", "hidden"),
                **with_bias("ln2", "hidden"),
                **with_bias("attn_q", "hidden", "hidden"),
                **with_bias("attn_k", "hidden", "hidden"),
                **with_bias("attn_v", "hidden", "hidden"),
                **with_bias("attn_out", "hidden", "hidden"),
                **with_bias("ffn_up", "feed-forward", "hidden"),
                **with_bias("ffn_down", "hidden", "feed-forward"),
            }
        )
    ),
    metadata=_metadata,
    beside=_beside,
    # transformers' SiglipVisionConfig
    defaults=MappingProxyType(
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        }
    ),
    steps=(
        renamed(r"^model\.", ""),
        renamed(r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),  # as transformers 5 writes it
        renamed(r"_weight$", ".weight"),
    ),
    ignored=r"(?!(model\.)?(vision_tower|multi_modal_projector)\.)|.*vision_tower\.(vision_model\.)?head\.",
)
