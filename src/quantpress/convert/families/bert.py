"""BERT and its kin, which embed texts: BertModel (MiniLM, BGE), RoBERTa and XLM-RoBERTa (BGE-M3), Nomic's BERT.

They attend to a whole text and predict no tokens, so there is no output matrix; heads and poolers are left out. How
sentence-transformers makes one vector of a text stands in its modules.json. RoBERTa counts positions from the number
after its padding token's, so that its first rows are never used; llama.cpp counts from 0, and they are cut off. GGUF
has no key for a normalized vector: what embeds a text with llama.cpp normalizes it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gguf

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.architecture import Architecture, Rule, Sizes
from quantpress.convert.decoder import decoder_keys, decoder_sizes, in_layers, taken_for_granted, with_bias
from quantpress.convert.families.pooling import pooling
from quantpress.convert.rope import rope_keys
from quantpress.convert.sources import Source, rows
from quantpress.convert.steps import renamed
from quantpress.convert.vocabulary import automatic
from quantpress.gguf import Metadata, Value

__all__ = ["BERT", "NOMIC_BERT", "ROBERTA"]

_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh")
_TRAINED_POSITIONS = 2048
"""Nomic's models take more at inference, with a rope that llama.cpp does not stretch."""


def _after_padding(source: Source, sizes: Sizes) -> Source:
    """The rows of the positions that a text can have."""
    return rows(source, sizes["unused"], (max(0, source.shape[0] - sizes["unused"]), *source.shape[1:]))


_EMBEDDING = {
    "token_embd.weight": Rule(("vocabulary", "hidden")),
    "token_types.weight": Rule(("types", "hidden")),
    **with_bias("token_embd_norm", "hidden"),
}
_NORMS = in_layers(with_bias("attn_output_norm", "hidden") | with_bias("layer_output_norm", "hidden"))
_LAYERS = _NORMS | in_layers(
    {
        **with_bias("attn_q", "queries", "hidden"),
        **with_bias("attn_k", "keys", "hidden"),
        **with_bias("attn_v", "values", "hidden"),
        **with_bias("attn_output", "hidden", "attended"),
        **with_bias("ffn_up", "feed-forward", "hidden"),
        **with_bias("ffn_down", "hidden", "feed-forward"),
    }
)
_NOMIC_LAYERS = _NORMS | in_layers(
    {
        "attn_qkv.weight": Rule(("attended together", "hidden")),
        "attn_output.weight": Rule(("hidden", "attended")),
        "ffn_up.weight": Rule(("feed-forward", "hidden")),
        "ffn_gate.weight": Rule(("feed-forward", "hidden")),
        "ffn_down.weight": Rule(("hidden", "feed-forward")),
    }
)


def _unused(config: Section) -> int:
    """Rows of the position embedding that come before the first position, of RoBERTa."""
    return config.integer("pad_token_id", least=0) + 1


def _sizes(config: Section, layer: int | None = None) -> Sizes:
    sizes = decoder_sizes(config, layer)
    positions, types = config.integer("max_position_embeddings"), config.integer("type_vocab_size")
    return sizes | {
        "positions": positions,
        "types": types,
        "attended together": sizes["queries"] + sizes["keys"] + sizes["values"],
    }


def _roberta_sizes(config: Section, layer: int | None = None) -> Sizes:
    return {**_sizes(config, layer), "positions": _roberta_positions(config), "unused": _unused(config)}


def _roberta_positions(config: Section) -> int:
    stored, unused = config.integer("max_position_embeddings"), _unused(config)
    if stored <= unused:
        raise config.error("max_position_embeddings", f"more than pad_token_id + 1, {unused}", stored)
    return stored - unused


def _keys(config: Section, name: str) -> Metadata:
    return decoder_keys(config, name) | {
        f"{name}.attention.causal": Value.bool_(False),
        "tokenizer.ggml.token_type_count": Value.u32(config.integer("type_vocab_size")),
    }


def _metadata(config: Section) -> Metadata:
    """The keys that llama.cpp's converter writes; raises CheckpointError for what its graph does not compute."""
    if (activation := config.get("hidden_act")) not in _GELU:
        raise config.error("hidden_act", f"{_GELU[0]!r}, as llama.cpp computes it", activation)
    taken_for_granted(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    return _keys(config, "bert")


def _roberta_metadata(config: Section) -> Metadata:
    return _metadata(config.merged({"max_position_embeddings": _roberta_positions(config)}))


def _nomic_metadata(config: Section) -> Metadata:
    taken_for_granted(config, activation_function="swiglu", hidden_act="silu", causal=False, moe_every_n_layers=0)
    taken_for_granted(config, prenorm=False, parallel_block=False, use_rms_norm=False)
    taken_for_granted(config, qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False)
    taken_for_granted(config, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None)
    return _keys(config, "nomic-bert") | rope_keys(config, "nomic-bert", ("default",))


def _nomic_derived(config: Section) -> dict[str, Any]:
    """The fields of the published config.json, which are GPT-2's, under the names of transformers' NomicBertConfig."""
    names = {
        "hidden_size": ("n_embd", 768),
        "num_hidden_layers": ("n_layer", 12),
        "num_attention_heads": ("n_head", 12),
        "intermediate_size": ("n_inner", 3072),
        "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
        "max_position_embeddings": ("max_trained_positions", _TRAINED_POSITIONS),
        "rope_theta": ("rotary_emb_base", 1000.0),
    }
    found = {name: config.get(name, config.get(older, default)) for name, (older, default) in names.items()}
    sizes = Section(config.path, found)
    return found | {"head_dim": sizes.integer("hidden_size") // sizes.integer("num_attention_heads")}


def _pooling(checkpoint: Checkpoint, config: Section, name: str) -> Metadata:
    del config
    found = pooling(checkpoint)
    return {} if found is None else {f"{name}.pooling_type": Value.u32(found)}


BERT = Architecture(
    classes=("BertModel", "BertForMaskedLM"),
    gguf=gguf.MODEL_ARCH.BERT,
    layers="num_hidden_layers",
    sizes=_sizes,
    rules=MappingProxyType(_EMBEDDING | {"position_embd.weight": Rule(("positions", "hidden"))} | _LAYERS),
    metadata=_metadata,
    vocabulary=automatic,
    beside=lambda checkpoint, config: _pooling(checkpoint, config, "bert"),
    defaults=MappingProxyType(
        {
            "vocab_size": 30_522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        }
    ),
    steps=(
        renamed(r"^(bert|roberta)\.", ""),
        renamed(r"\.gamma$", ".weight"),  # names of TensorFlow's checkpoints
        renamed(r"\.beta$", ".bias"),
    ),
    ignored=r"((bert|roberta)\.)?(pooler\.|cls\.|embeddings\.position_ids)",
)

ROBERTA = replace(
    BERT,
    classes=("RobertaModel", "XLMRobertaModel"),
    sizes=_roberta_sizes,
    rules=MappingProxyType(
        _EMBEDDING | {"position_embd.weight": Rule(("positions", "hidden"), (_after_padding,))} | _LAYERS
    ),
    metadata=_roberta_metadata,
    defaults=MappingProxyType({**BERT.defaults, "vocab_size": 50_265, "pad_token_id": 1}),
)

NOMIC_BERT = replace(
    BERT,
    classes=("NomicBertModel",),
    gguf=gguf.MODEL_ARCH.NOMIC_BERT,
    rules=MappingProxyType(_EMBEDDING | _NOMIC_LAYERS),
    metadata=_nomic_metadata,
    beside=lambda checkpoint, config: _pooling(checkpoint, config, "nomic-bert"),
    defaults=MappingProxyType({"vocab_size": 30_528, "type_vocab_size": 2}),
    derived=_nomic_derived,
)
