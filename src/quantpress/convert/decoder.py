"""What most decoders have in common: attention and a gated feed-forward, or experts; the sizes, rules and keys of them.

A family takes these and adds, replaces or leaves out what differs. The keys are those that llama.cpp's converter writes
for every text model where config.json has the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Rule, Sizes, When
from quantpress.convert.rope import LAYER_KINDS
from quantpress.convert.sources import Source, rows
from quantpress.gguf import Metadata, Value, ValueType

__all__ = [
    "ATTENTION",
    "ATTENTION_BIASES",
    "EMBEDDING",
    "EXPERTS",
    "FEED_FORWARD",
    "FEED_FORWARD_MATRICES",
    "FEED_FORWARD_NORM",
    "SHARED_EXPERTS",
    "decoder_keys",
    "decoder_sizes",
    "derived_heads",
    "expert_count",
    "has",
    "head_size",
    "in_layers",
    "only",
    "only_vocabulary",
    "sliding_layers",
    "sliding_window_keys",
    "taken_for_granted",
    "tied",
    "with_bias",
]


def only_vocabulary(source: Source, sizes: Sizes) -> Source:
    """The rows that have a token; checkpoints pad the embedding to a round number of rows."""
    return rows(source, 0, (min(source.shape[0], sizes["vocabulary"]), *source.shape[1:]))


def has(field: str) -> When:
    """Where a field of config.json is true."""
    return lambda config, layer: bool(config.get(field))


def only(when: When, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The same rules for these layers only."""
    return {name: replace(rule, when=when) for name, rule in rules.items()}


def taken_for_granted(config: Section, **expected: object) -> None:
    """Raise CheckpointError for a field that is not what llama.cpp's graph computes; an absent one is."""
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise config.error(key, f"{value!r}, as llama.cpp computes it", config.get(key))


def in_layers(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules of a layer's tensors, named without `blk.{bid}.`."""
    return {f"blk.{{bid}}.{name}": rule for name, rule in rules.items()}


def with_bias(name: str, *shape: str) -> dict[str, Rule]:
    """A weight of this shape, and its bias, which has the outermost dimension."""
    return {f"{name}.weight": Rule(shape), f"{name}.bias": Rule(shape[:1])}


tied = has("tie_word_embeddings")
"""Where the embedding is the output too: only then may a checkpoint do without a matrix of the output."""


EMBEDDING = MappingProxyType(
    {
        "token_embd.weight": Rule(("vocabulary", "hidden"), (only_vocabulary,)),
        "output.weight": Rule(("vocabulary", "hidden"), (only_vocabulary,), optional=tied),
        "output_norm.weight": Rule(("hidden",)),
    }
)

ATTENTION = MappingProxyType(
    in_layers(
        {
            "attn_norm.weight": Rule(("hidden",)),
            "attn_q.weight": Rule(("queries", "hidden")),
            "attn_k.weight": Rule(("keys", "hidden")),
            "attn_v.weight": Rule(("values", "hidden")),
            "attn_output.weight": Rule(("hidden", "attended")),
        }
    )
)

ATTENTION_BIASES = MappingProxyType(
    in_layers(
        {
            "attn_q.bias": Rule(("queries",)),
            "attn_k.bias": Rule(("keys",)),
            "attn_v.bias": Rule(("values",)),
        }
    )
)

FEED_FORWARD_NORM = MappingProxyType(in_layers({"ffn_norm.weight": Rule(("hidden",))}))

FEED_FORWARD_MATRICES = MappingProxyType(
    in_layers(
        {
            "ffn_gate.weight": Rule(("feed-forward", "hidden")),
            "ffn_up.weight": Rule(("feed-forward", "hidden")),
            "ffn_down.weight": Rule(("hidden", "feed-forward")),
        }
    )
)

FEED_FORWARD = MappingProxyType(FEED_FORWARD_NORM | FEED_FORWARD_MATRICES)

EXPERTS = MappingProxyType(
    in_layers(
        {
            "ffn_gate_inp.weight": Rule(("experts", "hidden")),
            "ffn_gate_exps.weight": Rule(("experts", "expert", "hidden")),
            "ffn_up_exps.weight": Rule(("experts", "expert", "hidden")),
            "ffn_down_exps.weight": Rule(("experts", "hidden", "expert")),
        }
    )
)

SHARED_EXPERTS = MappingProxyType(  # the size `shared` is the family's
    in_layers(
        {
            "ffn_gate_shexp.weight": Rule(("shared", "hidden")),
            "ffn_up_shexp.weight": Rule(("shared", "hidden")),
            "ffn_down_shexp.weight": Rule(("hidden", "shared")),
        }
    )
)


def decoder_sizes(config: Section, layer: int | None = None) -> dict[str, int]:
    """The sizes that the rules above name, all layers alike."""
    del layer
    heads = config.integer("num_attention_heads")
    groups, head = config.integer("num_key_value_heads", heads), head_size(config)
    found = {
        "vocabulary": config.integer("vocab_size"),
        "hidden": config.integer("hidden_size"),
        "heads": heads,
        "groups": groups,
        "head": head,
        "queries": head * heads,
        "attended": head * heads,
        "keys": head * groups,
        "values": head * groups,
    }
    if config.get("intermediate_size") is not None:
        found["feed-forward"] = config.integer("intermediate_size")
    if experts := expert_count(config):
        found |= {"experts": experts, "expert": config.integer("moe_intermediate_size", found.get("feed-forward"))}
    return found


def derived_heads(config: Section) -> dict[str, int]:
    """What most of transformers' configurations compute where config.json is silent."""
    return {"head_dim": head_size(config), "num_key_value_heads": config.integer("num_attention_heads")}


def head_size(config: Section) -> int:
    """Weights of an attention head."""
    return config.integer("head_dim", config.integer("hidden_size") // config.integer("num_attention_heads"))


def expert_count(config: Section) -> int:
    """Experts of a layer, 0 where there are none."""
    fields = ("num_local_experts", "num_experts", "n_routed_experts")
    given = [field for field in fields if config.get(field)]
    return config.integer(given[0]) if given else 0


def sliding_layers(config: Section, pattern: int) -> list[bool]:
    """Whether each layer slides: from `layer_types`, or all but each `pattern`-th, as older configurations say it.

    Raises CheckpointError for other kinds, or another number of them.
    """
    layers, kinds = config.integer("num_hidden_layers"), config.items("layer_types")
    if not kinds:
        pattern = config.integer("sliding_window_pattern", config.get("_sliding_window_pattern", pattern))
        return [bool((layer + 1) % pattern) for layer in range(layers)]
    if len(kinds) != layers or any(kind not in LAYER_KINDS for kind in kinds):
        raise config.error("layer_types", f"{layers} of sliding_attention or full_attention", kinds)
    return [kind == "sliding_attention" for kind in kinds]


def sliding_window_keys(config: Section, name: str, pattern: int) -> Metadata:
    """`<name>.attention.sliding_window` and, unless all but each `pattern`-th layer slide, which do.

    llama.cpp knows that pattern by itself; another one it reads, though its own converter never writes it for Gemma 2
    and 3 and Cohere 2.
    """
    sliding = sliding_layers(config, pattern)
    found = {f"{name}.attention.sliding_window": Value.u32(config.integer("sliding_window"))}
    if sliding != [bool((layer + 1) % pattern) for layer in range(len(sliding))]:
        found[f"{name}.attention.sliding_window_pattern"] = Value.array(ValueType.BOOL, sliding)
    return found


_COUNTS = (  # key, and the fields it is taken from: the first that is there
    ("block_count", ("num_hidden_layers",)),
    ("context_length", ("max_position_embeddings", "n_positions")),
    ("embedding_length", ("hidden_size",)),
    ("feed_forward_length", ("intermediate_size",)),
    ("attention.head_count", ("num_attention_heads",)),
    ("attention.head_count_kv", ("num_key_value_heads",)),
    ("expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("expert_used_count", ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")),
    ("expert_group_count", ("n_group",)),
    ("expert_group_used_count", ("topk_group",)),
    ("attention.key_length", ("head_dim",)),
    ("attention.value_length", ("head_dim",)),
)
_NEEDED = ("block_count", "context_length", "embedding_length", "attention.head_count")
_NUMBERS = (
    ("attention.layer_norm_rms_epsilon", ("rms_norm_eps", "norm_eps")),
    ("attention.layer_norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon")),
)


def decoder_keys(config: Section, name: str) -> Metadata:
    """`<name>.*` of the sizes; rope.py has the keys of the positions.

    Raises CheckpointError where there is no value for a key that llama.cpp needs.
    """
    found: Metadata = {}
    for key, fields in _COUNTS:
        given = [field for field in fields if config.get(field) is not None]
        if given or key in _NEEDED:
            found[f"{name}.{key}"] = Value.u32(config.integer((given or fields)[0], least=int(key in _NEEDED)))
    for key, fields in _NUMBERS:
        if given := [field for field in fields if config.get(field) is not None]:
            found[f"{name}.{key}"] = Value.f32(config.number(given[0]))
    if not any(f"{name}.{key}" in found for key, _ in _NUMBERS):
        raise config.error("rms_norm_eps or layer_norm_eps", "a positive number", None)
    return found
