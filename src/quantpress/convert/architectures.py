"""The table of the architectures that `quantpress convert` knows."""

from __future__ import annotations

from types import MappingProxyType

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture
from quantpress.convert.families.bert import BERT, NOMIC_BERT, ROBERTA
from quantpress.convert.families.command_r import COHERE2, COMMAND_R
from quantpress.convert.families.deepseek2 import DEEPSEEK_V2, DEEPSEEK_V3
from quantpress.convert.families.gemma2 import GEMMA2
from quantpress.convert.families.gemma3 import GEMMA3
from quantpress.convert.families.gemma3_vision import GEMMA3_VISION
from quantpress.convert.families.gemma4 import GEMMA4, GEMMA4_UNIFIED
from quantpress.convert.families.gemma4_vision import GEMMA4_VISION
from quantpress.convert.families.gpt_oss import GPT_OSS
from quantpress.convert.families.granite import GRANITE, GRANITE_4, GRANITE_MOE
from quantpress.convert.families.llama import LLAMA, MISTRAL, MIXTRAL
from quantpress.convert.families.mistral3 import MISTRAL3
from quantpress.convert.families.olmo2 import OLMO2, OLMO3
from quantpress.convert.families.phi3 import PHI3
from quantpress.convert.families.qwen import QWEN2, QWEN3, QWEN3_MOE
from quantpress.convert.families.qwen35 import QWEN35, QWEN35_MOE

__all__ = ["ARCHITECTURES", "PROJECTORS", "recognise", "recognise_projector"]

_ALL = (
    BERT,
    COHERE2,
    COMMAND_R,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    GEMMA2,
    GEMMA3,
    GEMMA4,
    GEMMA4_UNIFIED,
    GPT_OSS,
    GRANITE,
    GRANITE_4,
    GRANITE_MOE,
    LLAMA,
    MISTRAL,
    MISTRAL3,
    MIXTRAL,
    NOMIC_BERT,
    OLMO2,
    OLMO3,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN35,
    QWEN35_MOE,
    QWEN3_MOE,
    ROBERTA,
)

ARCHITECTURES = MappingProxyType({name: architecture for architecture in _ALL for name in architecture.classes})
"""Name in config.json's `architectures` → what is known of it."""

PROJECTORS = MappingProxyType({name: half for half in (GEMMA3_VISION, GEMMA4_VISION) for name in half.classes})
"""The same for the half that sees, which becomes a file of its own."""

_QUANTIZED = ("fp8", "mxfp4")
_EIGHT_BITS = {
    "compressed-tensors": ("format", ("float-quantized", "naive-quantized")),
    "modelopt": ("quant_algo", ("FP8",)),
}
"""Methods of many kinds: the field that says which, and those that are FP8."""


def recognise(checkpoint: Checkpoint) -> tuple[Architecture, Section]:
    """The architecture of a checkpoint, and the configuration of its text half with the defaults filled in.

    Raises CheckpointError for an unknown architecture and for weights that are already quantized.
    """
    config, text = checkpoint.config, checkpoint.config.section("text_config")
    names = text.items("architectures") or config.items("architectures")
    if not names or names[0] not in ARCHITECTURES:
        hint = "A BF16 GGUF file that llama.cpp's own converter (convert_hf_to_gguf.py) made will do in its place"
        raise config.error("architectures", f"one of {', '.join(ARCHITECTURES)}", names[0] if names else None, hint)
    architecture = ARCHITECTURES[names[0]]
    given = Section(config.path, {**text.values, **config.merged(text.values).values})
    # either half may say so; and an embedding model, which has no use for an output, may say that it has one
    if config.get("tie_word_embeddings") or (checkpoint.text("modules.json") is not None):
        given = given.merged({"tie_word_embeddings": True})
    _check_weights(given.section("quantization_config"))
    # As in transformers, a default is for a field that is absent, where null means none (no soft cap, no sliding
    # window); what is derived is for null too. What may not be none, the family's metadata refuses.
    whole = Section(config.path, {**architecture.defaults, **given.values})
    if whole.get(architecture.layers) is not None:
        _check_layers(whole, architecture.layers, len(checkpoint.tensors))
    derived = Section(config.path, architecture.derived(whole)).merged(whole.values)
    _check_layers(derived, architecture.layers, len(checkpoint.tensors))  # Nomic's is under another name
    return architecture, derived


def recognise_projector(checkpoint: Checkpoint) -> tuple[Architecture, Section]:
    """The half of a checkpoint that sees, and its `vision_config` with what it has to know of the whole.

    Raises CheckpointError for a checkpoint without one, and as `recognise` does.
    """
    names = checkpoint.config.items("architectures")
    vision = checkpoint.config.section("vision_config")
    if not names or not vision.values or names[0] not in PROJECTORS:
        hint = "Its text half becomes a file without --mmproj"
        found = names[0] if names and vision.values else "no vision_config"
        raise checkpoint.config.error("architectures", f"one that sees: {', '.join(PROJECTORS)}", found, hint)
    architecture, text = PROJECTORS[names[0]], recognise(checkpoint)[1]
    whole = {"projection_dim": text.integer("hidden_size")} | {
        field: text.get(field) for field in ("mm_tokens_per_image", "quantization_config")
    }
    config = Section(vision.path, {**architecture.defaults, **vision.values, **whole}, vision.name)
    _check_layers(config, architecture.layers, len(checkpoint.tensors))
    return architecture, config


def _check_layers(config: Section, field: str, tensors: int) -> None:
    """Raise CheckpointError for more layers than there can be, before anything is made for each of them."""
    if config.integer(field) > tensors:
        raise config.error(field, f"at most {tensors}, as there are so many tensors", config.get(field))


def _check_weights(about: Section) -> None:
    """Raise CheckpointError for weights in another type than those that can be read."""
    method = about.get("quant_method")
    if method is None or method in _QUANTIZED:
        return
    key, known = _EIGHT_BITS.get(method, ("quant_method", ()))
    if about.get(key) not in known:
        expected = "weights in BF16, F16, F32, FP8, or the MXFP4 of GPT-OSS"
        hint = "Quantizing twice adds the errors up: take the original"
        raise about.error(key, expected, about.get(key), hint)
