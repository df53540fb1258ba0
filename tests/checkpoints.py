"""Small checkpoints, made here: the same weights on every machine, from arithmetic rather than a random generator.

Only numpy and the standard library, so that the script that asks llama.cpp's converter about them can make them too.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DEMO = Path(__file__).parents[1] / "examples" / "demo-gemma3"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
NUMPY = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "I64": np.dtype("<i8")}


def weights(shape: tuple[int, ...], seed: int, scale: float) -> np.ndarray:
    """float32 in [-scale, scale), by multiplicative hashing of the position."""
    position = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    hashed = (position * np.uint64(2_654_435_761)) % np.uint64(1 << 32)
    return ((hashed / 2**31 - 1) * scale).astype(np.float32).reshape(shape)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values in a safetensors dtype; BF16 by cutting, as bit patterns."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(NUMPY["BF16"])
    return values.astype(NUMPY[dtype])


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> None:
    """Write arrays (float32, or whatever `dtype` names) as one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, position = [], 0
    for name, values in tensors.items():
        blob = stored(values, dtype).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [position, position + len(blob)],
        }
        position += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def gemma3_tensors(config: Mapping[str, Any], rows: int, prefix: str = "") -> dict[str, np.ndarray]:
    """The tensors of a Gemma 3 text model with these sizes by their Hugging Face names; `rows` of the embedding."""
    hidden, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "post_attention_layernorm": (hidden,),
        "pre_feedforward_layernorm": (hidden,),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
        "post_feedforward_layernorm": (hidden,),
    }
    shapes = {"model.embed_tokens": (rows, hidden), "model.norm": (hidden,)}
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return {
        f"{prefix}{name}.weight": weights(shape, seed, 0.5 if len(shape) == 1 else 4.0 / math.sqrt(shape[-1]))
        for seed, (name, shape) in enumerate(shapes.items())
    }


TINY = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 4096,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "max_position_embeddings": 512,
    "sliding_window": 16,
}
"""The smallest config.json of a Gemma 3 with the demo's tokenizer."""


def tiny(folder: Path, config: Mapping[str, Any] | None = None, dtype: str = "BF16") -> Path:
    """A complete checkpoint of two layers in `folder`; `config` replaces fields of TINY."""
    folder.mkdir(parents=True)
    merged = {**TINY, **(config or {})}
    write_json(folder / "config.json", merged)
    write_safetensors(folder / "model.safetensors", gemma3_tensors(merged, merged["vocab_size"]), dtype)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, folder / name)
    return folder


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON object in a file; None removes one."""
    value = json.loads(path.read_text(encoding="utf-8")) | fields
    write_json(path, {key: field for key, field in value.items() if field is not None})


def older_style(parent: Path) -> Path:
    """Older field names, linear rope scaling, a soft cap, one global layer in three, an output matrix, F16 shards.

    Its folder's name, model card, generation settings and template files say all that the general.* keys can hold.
    """
    folder = tiny(
        parent / "Acme-Gemma-3-1B-it-v1.1",
        {
            "num_hidden_layers": 7,
            "vocab_size": 4100,
            "tie_word_embeddings": False,
            "sliding_window_pattern": 3,
            "rope_theta": 500000.0,
            "rope_local_base_freq": 20000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "final_logit_softcapping": 30.0,
        },
    )
    config = json.loads((folder / "config.json").read_text())
    tensors = gemma3_tensors(config, 4100) | {"lm_head.weight": weights((4100, 32), 99, 1.0)}
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 3, "F16")
    write_json(folder / "added_tokens.json", {"<extra>": 4097, "<beyond>": 70000})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    decoder = settings["added_tokens_decoder"]
    decoder["4098"] = {"content": "two▁words", "special": False}
    decoder["4099"] = {"content": "<unused7>", "special": False}
    decoder["70001"] = {"content": "<image_soft_token>", "special": True}
    template = settings["chat_template"]
    edit_json(
        folder / "tokenizer_config.json",
        added_tokens_decoder=decoder,
        chat_template=None,
        eos_token={"content": "<end_of_turn>"},
        mask_token="<mask>",  # noqa: S106 - not that kind of token
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool-use.jinja").write_text("{{ messages }}", encoding="utf-8")
    generation = {"temperature": 0.7, "top_k": 64, "top_p": 0.95, "repetition_penalty": 1.1, "eos_token_id": [1, 5]}
    write_json(folder / "generation_config.json", generation)
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    return folder


_CARD = """---
license: other
license_name: acme
license_link: https://example.com/licence
language: [en, de]
pipeline_tag: text-generation
tags: [gemma3, "no"]
base_model: [google/gemma-3-1b-it, "https://huggingface.co/Acme/Base-2B-v2", "https://example.com/model"]
datasets: acme/words-v2
author: Acme
description: A model of nothing
---
# A card
"""


def write_shards(folder: Path, tensors: Mapping[str, np.ndarray], count: int, dtype: str) -> None:
    """The tensors in turn over `count` shards, with their index."""
    weight_map = {}
    for number in range(count):
        shard = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = dict(list(tensors.items())[number::count])
        write_safetensors(folder / shard, part, dtype)
        weight_map |= dict.fromkeys(part, shard)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def multimodal(parent: Path) -> Path:
    """The wrapper with a vision half, as silent on the text half's sizes as the published ones; padding rows."""
    folder = tiny(parent / "multimodal")
    text = {"model_type": "gemma3_text", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 1024}
    write_json(
        folder / "config.json",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "eos_token_id": [1, 5],
            "text_config": text,
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8},
        },
    )
    sizes = text | {"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
    tensors = gemma3_tensors(sizes, 262_272, "language_model.")
    tensors["multi_modal_projector.mm_soft_emb_norm.weight"] = np.zeros(8, np.float32)
    tensors["vision_tower.vision_model.post_layernorm.weight"] = np.zeros(8, np.float32)
    write_safetensors(folder / "model.safetensors", tensors, "BF16")
    return folder


def demo(parent: Path) -> Path:
    """The bundled checkpoint."""
    del parent
    return DEMO


VARIANTS = {"demo": demo, "older-style": older_style, "multimodal": multimodal}
"""Checkpoints that llama.cpp's own converter was asked about: see scripts/make_convert_oracle.py."""
