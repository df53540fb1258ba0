"""The `general.*` keys: name, size, licence, base models, tags, languages, and how to sample.

They come from the front matter of README.md, generation_config.json, config.json and the folder's name, by the rules
of thumb in the `gguf` package, which are llama.cpp's converter's. Its writer serves as a collector; it writes nothing.

A model card is written by hand, and a slip in it is no reason to stop: scalars are taken as they are spelled, and a
card that cannot be used at all is left out, with a note. generation_config.json is for programs, so a wrong field in it
is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np
import yaml

from quantpress.checkpoint import Checkpoint, Section
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType
from quantpress.progress import SILENT, Progress

__all__ = ["general"]

_SAMPLING = {
    "sequence": "sampling_sequence",
    "top_k": "sampling_top_k",
    "top_p": "sampling_top_p",
    "min_p": "sampling_min_p",
    "xtc_probability": "sampling_xtc_probability",
    "xtc_threshold": "sampling_xtc_threshold",
    "temperature": "sampling_temp",
    "penalty_last_n": "sampling_penalty_last_n",
    "repetition_penalty": "sampling_penalty_repeat",  # newer than the published package
    "penalty_repeat": "sampling_penalty_repeat",
    "mirostat": "sampling_mirostat",
    "mirostat_tau": "sampling_mirostat_tau",
    "mirostat_eta": "sampling_mirostat_eta",
}
"""Field of generation_config.json → field of `gguf.Metadata`; the later of two for one place counts."""

_WHOLE = {"top_k", "penalty_last_n", "mirostat"}
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LARGEST_INT = (1 << 31) - 1

_UNUSABLE = (CheckpointError, yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""What a card may raise, on its way through YAML and the rules of thumb."""


def general(
    checkpoint: Checkpoint,
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    mmproj: bool = False,
    progress: Progress = SILENT,
) -> Metadata:
    """The keys for a model with tensors of these shapes (GGUF name to shape, outermost first).

    A model card that cannot be used is left out, and `progress` told so. Raises CheckpointError for a malformed
    generation_config.json, and for a `_name_or_path` in config.json that is no text.
    """
    generation = checkpoint.json("generation_config.json")
    sampling = _sampling(generation) if generation is not None else {}
    origin = checkpoint.config.text("_name_or_path", "")  # before the card, which its errors are not about
    kind = gguf.GGUFType.MMPROJ if mmproj else gguf.GGUFType.MODEL

    def keys(card: dict[str, Any]) -> Metadata:
        writer = gguf.GGUFWriter(path=None, arch=architecture)
        for name, shape in shapes.items():
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 0)
        writer.add_type(kind)
        found = _collected(checkpoint.name, origin, card, writer.get_total_parameter_count())
        for place, value in sampling.items():
            setattr(found, place, value)
        found.set_gguf_meta_model(writer)
        return {key: _value(key, entry) for key, entry in writer.kv_data[0].items()}

    try:
        return keys(_card(checkpoint))
    except _UNUSABLE as error:
        left_out = "its licence, base models, tags and languages are not carried over"
        progress.note(f"README.md: the model card cannot be used, {left_out}: {_reason(error)}")
    return keys({})


def _collected(name: str, origin: str, card: dict[str, Any], counts: tuple[int, int, int, int]) -> gguf.Metadata:
    """What the rules of thumb make of the model's name, the `_name_or_path` of its configuration, and its card."""
    config = {"_name_or_path": origin} if origin else {}
    found = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, Path(name), counts[0])
    found.name = found.name or name
    found.size_label = found.size_label or gguf.size_label(*counts)
    return found


class _Spelled(yaml.SafeLoader):  # type: ignore[misc]
    """Numbers, dates and truth values stay as they are spelled: `[en, no]` ends in Norwegian, `1.10` in a zero."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _card(checkpoint: Checkpoint) -> dict[str, Any]:
    """The front matter of README.md, between lines of `---`, without the nulls in its lists; empty without any."""
    lines = (checkpoint.text("README.md") or "").splitlines()
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    # tabs are no YAML, but published cards have them
    card = yaml.load("\n".join([*lines[1:end], ""]).replace("\t", "  "), _Spelled)  # noqa: S506 - a SafeLoader
    if not isinstance(card, dict):
        return {}
    return {
        key: [one for one in value if one is not None] if isinstance(value, list) else value
        for key, value in card.items()
    }


def _reason(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    reason = f"line {mark.line + 2}: {getattr(error, 'problem', '')}" if mark is not None else str(error)
    return " ".join(reason.split())[:200]


def _sampling(generation: Section) -> dict[str, Any]:
    """How to sample: field of `gguf.Metadata` → value. Raises CheckpointError for a field of another type."""
    return {place: _sampled(generation, key) for key, place in _SAMPLING.items() if generation.get(key) is not None}


def _sampled(generation: Section, key: str) -> str | int | float:
    if key == "sequence":
        return generation.text(key)
    value = generation.get(key)
    whole = key in _WHOLE
    number = type(value) is int or (type(value) is float and (not whole or value.is_integer()))
    if not number or not abs(value) <= (_LARGEST_INT if whole else _LARGEST_FLOAT):  # NaN is not at most anything
        raise generation.error(key, "a whole number" if whole else "a finite number", value)
    return int(value) if whole else float(value)


def _value(key: str, entry: Any) -> Value:
    """A value of the `gguf` package as one of ours."""
    try:
        item = ValueType.STRING if ValueType(int(entry.type)) is ValueType.ARRAY else None  # tags and languages
        value = Value(ValueType(int(entry.type)), entry.value, item)
        value.encoded  # noqa: B018 - half of a surrogate pair shows here
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return value
