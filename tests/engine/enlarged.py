"""The stored checkpoints, four times as wide: most rows have 256 weights, which every tensor type divides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import stored, weights
from tests.convert.edits import Raw, edit_config, tensors, write
from tests.convert.test_architectures import checkpoint

_FACTOR = 4
_WIDTHS = ("hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim")
_COUNTS = ("vocab_size", "type_vocab_size", "max_position_embeddings", "num_attention_heads")
_COUNTS += ("num_local_experts", "num_experts")


def enlarged(name: str, parent: Path) -> Path:
    """A stored checkpoint of that architecture, with other weights; what counts tokens, heads or experts stays."""
    folder = checkpoint(name, parent)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit_config(folder, **{field: _FACTOR * config[field] for field in _WIDTHS if config.get(field)})
    counts = {config[field] for field in _COUNTS if config.get(field)}
    found = {}
    for seed, (tensor, old) in enumerate(tensors(folder).items()):
        shape = tuple(size if size in counts else _FACTOR * size for size in old.shape)
        vector = len(shape) == 1
        values = weights(shape, seed, 0.5 if vector else 2 / math.sqrt(shape[-1])) + np.float32(vector)
        found[tensor] = Raw("BF16", shape, stored(values, "BF16").tobytes())
    write(folder, found)
    return folder
