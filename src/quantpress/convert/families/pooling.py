"""How sentence-transformers makes one vector of the vectors of a text's tokens: modules.json, 1_Pooling/config.json.

modules.json lists what runs one after the other: the model, the pooling, perhaps a normalization. llama.cpp does these
and nothing after them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.errors import CheckpointError

__all__ = ["pooling"]

_MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
"""sentence-transformers' name → llama.cpp's number of the pooling."""

_FLAG = "pooling_mode_"  # in older files one a mode, true or false
_FLAGS = {"mean_tokens": "mean", "cls_token": "cls"}
_DONE = ("Transformer", "Pooling", "Normalize")


def pooling(checkpoint: Checkpoint) -> int | None:
    """llama.cpp's number of the pooling; None where modules.json is missing or has none.

    Raises CheckpointError for malformed files, for a pooling that llama.cpp does not know, and for other modules.
    """
    found = None
    for number, module in enumerate(_modules(checkpoint)):
        section = Section(checkpoint.path / "modules.json", module if isinstance(module, dict) else {}, str(number))
        kind = section.text("type").rpartition(".")[2]
        if kind not in _DONE:
            hint = "Take it out of modules.json to have the embeddings that the model makes without it"
            raise section.error("type", f"{', '.join(_DONE)}, which llama.cpp can do", kind, hint)
        if kind == "Pooling" and found is None:
            found = _number(checkpoint, section.text("path"))
    return found


def _modules(checkpoint: Checkpoint) -> list[Any]:
    text = checkpoint.text("modules.json")
    if text is None:
        return []
    try:
        modules = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(checkpoint.path / "modules.json", "file", expected="JSON", found=error) from error
    if not isinstance(modules, list):
        found = type(modules).__name__
        raise CheckpointError(checkpoint.path / "modules.json", "file", expected="a list of modules", found=found)
    return modules


def _number(checkpoint: Checkpoint, folder: str) -> int:
    if Path(folder).name != folder:
        raise CheckpointError(checkpoint.path / "modules.json", "path", expected="a folder's name", found=folder)
    name = f"{folder}/config.json"
    config = checkpoint.json(name)
    if config is None:
        raise CheckpointError(checkpoint.path / name, "file", expected="the settings of the pooling", found="none")
    modes = [key.removeprefix(_FLAG) for key, on in config.values.items() if key.startswith(_FLAG) and on is True]
    chosen = " + ".join(_FLAGS.get(mode, mode) for mode in modes) or config.text("pooling_mode")
    if chosen not in _MODES:
        raise config.error("pooling_mode", f"one of {', '.join(_MODES)}, which llama.cpp knows", chosen)
    return _MODES[chosen]
