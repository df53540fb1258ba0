"""What the halves that see have in common: the keys, the sizes, and how an image becomes numbers.

Such a half becomes a file of its own, `mmproj-….gguf`, which llama.cpp's library `mtmd` loads beside the text half.
Its configuration is config.json's `vision_config`; what the text half expects (`projection_dim`) comes from
`text_config`, and the scale of the pixels from preprocessor_config.json or processor_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Rule
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = [
    "ALWAYS_F16",
    "ALWAYS_F32",
    "in_vision_layers",
    "preprocessor",
    "vision_keys",
    "vision_sizes",
]

ALWAYS_F32: Mapping[str, str] = MappingProxyType({"F16": "F32", "BF16": "F32"})
ALWAYS_F16: Mapping[str, str] = MappingProxyType({"F32": "F16", "BF16": "F16"})

_FILES = ("preprocessor_config.json", "processor_config.json")
_CHANNELS = 3


def in_vision_layers(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules of a layer's tensors, named without `v.blk.{bid}.`."""
    return {f"v.blk.{{bid}}.{name}": rule for name, rule in rules.items()}


def vision_sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    """The sizes that the rules of such a half name; raises CheckpointError for heads of unequal size."""
    del layer
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden % heads:
        raise config.error("hidden_size", f"a multiple of num_attention_heads, {heads}", hidden)
    return {
        "hidden": hidden,
        "head": hidden // heads,
        "feed-forward": config.integer("intermediate_size"),
        "projection": config.integer("projection_dim"),
        "patch": config.integer("patch_size"),
        "channels": _CHANNELS,
    }


def vision_keys(config: Section, epsilon: str) -> Metadata:
    """`clip.vision.*` of the sizes; `epsilon` is the field of the norms' constant."""
    counts = {
        "projection_dim": "projection_dim",
        "image_size": "image_size",
        "patch_size": "patch_size",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "block_count": "num_hidden_layers",
        "attention.head_count": "num_attention_heads",
    }
    return {
        "clip.has_vision_encoder": Value.bool_(True),
        **{f"clip.vision.{key}": Value.u32(config.integer(field)) for key, field in counts.items()},
        "clip.vision.attention.layer_norm_epsilon": Value.f32(config.number(epsilon)),
    }


def preprocessor(checkpoint: Checkpoint) -> tuple[Section, Metadata]:
    """The settings of the image processor, and `clip.vision.image_mean` and `image_std`.

    Raises CheckpointError where the checkpoint has neither file, or not three numbers for each.
    """
    found: dict[str, Any] = {}
    path = checkpoint.path / _FILES[0]
    for name in _FILES:
        if file := checkpoint.json(name):
            found |= {**file.values, **file.section("image_processor").values}
            path = file.path
    if not found:
        raise CheckpointError(checkpoint.path, "image processor", expected=" or ".join(_FILES), found="neither")
    settings = Section(path, found)
    scale: Metadata = {}
    for key in ("image_mean", "image_std"):
        numbers = settings.items(key)
        if len(numbers) != _CHANNELS or any(type(number) not in (int, float) for number in numbers):
            raise settings.error(key, "three numbers", settings.get(key))
        scale[f"clip.vision.{key}"] = Value.array(ValueType.FLOAT32, [float(number) for number in numbers])
    return settings, scale
