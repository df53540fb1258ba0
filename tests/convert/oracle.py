"""What is kept of a GGUF file to compare it with: every key with its type, every tensor with a hash of its data."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the scripts that ask llama.cpp run without quantpress
    from quantpress.gguf import GGUF

CASES = {"demo": ("BF16", "F16", "F32"), "older-style": ("F16",), "multimodal": ("BF16",)}
"""Variant of tests/checkpoints.py → the types it is converted to."""

FILE = "convert-oracle.json"
LOGITS = "convert-logits.npz"


def kept(type_name: str, item_name: str | None, value: Any) -> list[Any]:
    """A metadata value as JSON: arrays as their length and hash."""
    if item_name is None:
        return [type_name, value]
    plain = json.dumps(value, ensure_ascii=False) if item_name == "STRING" else np.asarray(value).tolist().__repr__()
    return [type_name, item_name, len(value), hashlib.sha256(plain.encode()).hexdigest()]


def data_hash(data: np.ndarray) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def metadata(model: GGUF) -> dict[str, list[Any]]:
    """The keys of a file as `kept` makes them."""
    return {
        key: kept(value.type.name, value.item.name if value.item is not None else None, value.value)
        for key, value in model.metadata.items()
    }
