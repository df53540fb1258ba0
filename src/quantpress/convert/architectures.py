"""The table of the architectures that `quantpress convert` knows."""

from __future__ import annotations

from types import MappingProxyType

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture
from quantpress.convert.gemma3 import GEMMA3

__all__ = ["ARCHITECTURES", "recognise"]

ARCHITECTURES = MappingProxyType({name: architecture for architecture in (GEMMA3,) for name in architecture.classes})
"""Name in config.json's `architectures` → what is known of it."""


def recognise(checkpoint: Checkpoint) -> tuple[Architecture, Section]:
    """The architecture of a checkpoint, and the configuration of its text half with the defaults filled in.

    Raises CheckpointError for an unknown architecture and for weights that are already quantized.
    """
    config, text = checkpoint.config, checkpoint.config.section("text_config")
    names = text.items("architectures") or config.items("architectures")
    if not names or names[0] not in ARCHITECTURES:
        hint = "A BF16 GGUF file that llama.cpp's own converter (convert_hf_to_gguf.py) made will do in its place"
        raise config.error("architectures", f"one of {', '.join(ARCHITECTURES)}", names[0] if names else None, hint)
    if method := config.section("quantization_config").get("quant_method"):
        raise config.error("quantization_config", "weights in BF16, F16 or F32", method, "Take the original checkpoint")
    architecture = ARCHITECTURES[names[0]]
    whole = Section(config.path, architecture.defaults).merged(config.values).merged(text.values)
    return architecture, whole
