"""What config.json says of each layer of Gemma 4: they differ in heads, in keys and values, and in width."""

from __future__ import annotations

from quantpress.checkpoint import Section
from quantpress.convert.decoder import decoder_sizes, sliding_layers

__all__ = ["full", "has_own_values", "layer_sizes", "shared", "sliding"]

_PATTERN = 6
_DIFFERENT = ("head_dim", "num_key_value_heads")


def sliding(config: Section) -> list[bool]:
    """Whether each layer slides; the last never does, whatever `layer_types` says."""
    return [*sliding_layers(config, _PATTERN)[:-1], False]


def full(config: Section) -> Section:
    """The configuration of the layers that attend to all: newer files list layer by layer what differs.

    Raises CheckpointError where that is not the same for all of them.
    """
    if config.get("per_layer_config") is None:
        groups = config.get("num_global_key_value_heads") if config.get("attention_k_eq_v") else None
        return config.merged({"head_dim": config.integer("global_head_dim"), "num_key_value_heads": groups})
    given = config.section("per_layer_config")
    layers = [str(layer) for layer, slides in enumerate(sliding(config)) if not slides]
    fields = given.section(layers[0]).values
    if given.values != dict.fromkeys(layers, fields) or fields.keys() - set(_DIFFERENT):
        expected = f"the same {' and '.join(_DIFFERENT)} for layers {', '.join(layers)}, and no other layer"
        raise config.error("per_layer_config", expected, given.values)
    return config.merged(fields)


def shared(config: Section, layer: int) -> bool:
    """Whether a layer uses the keys and values of an earlier one."""
    return layer >= config.integer("num_hidden_layers") - config.integer("num_kv_shared_layers", least=0)


def has_own_values(config: Section, layer: int) -> bool:
    """Whether a layer has other values than its keys."""
    return bool(not config.get("attention_k_eq_v") or sliding(config)[layer])


def layer_sizes(config: Section, layer: int | None) -> dict[str, int]:
    """The sizes that the rules name."""
    slides = layer is None or sliding(config)[layer]
    sizes = decoder_sizes(config if slides else full(config))
    if layer is not None and config.get("use_double_wide_mlp") and shared(config, layer):
        sizes["feed-forward"] *= 2
    if config.get("enable_moe_block"):
        expert = config.integer("moe_intermediate_size")
        sizes |= {"experts": config.integer("num_experts"), "expert": expert, "gate and up": 2 * expert}
    one = config.integer("hidden_size_per_layer_input", 0, least=0)
    return sizes | {"one": 1, "layer input": one, "layer inputs": one * config.integer("num_hidden_layers")}
