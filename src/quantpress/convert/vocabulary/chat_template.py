"""The chat template: files of its own, or a string or a list of named ones in tokenizer_config.json.

chat_template.jinja goes before tokenizer_config.json, as in transformers: where both are there, the latter's is an old
one that was left. llama.cpp's converter has it the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantpress.checkpoint import Checkpoint
from quantpress.convert.vocabulary.files import TokenizerFiles
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["chat_template"]


def chat_template(files: TokenizerFiles) -> Metadata:
    """`tokenizer.chat_template`, and the named ones beside it; nothing where the checkpoint has none.

    Raises CheckpointError for a template that is no text or has no name.
    """
    template = _template_files(files.checkpoint)
    if template is None:
        template = files.settings.get("chat_template", _processor_template(files.checkpoint))
    chosen = files.settings.merged({"chat_template": template})
    if isinstance(template, str):
        return {"tokenizer.chat_template": Value.string(chosen.text("chat_template"))}
    found, names = {}, []
    for named in objects(chosen, "chat_template"):
        name = re.sub("[^A-Za-z0-9]", "_", named.text("name"))
        if name != "default":
            names.append(name)
        suffix = "" if name == "default" else f".{name}"
        found[f"tokenizer.chat_template{suffix}"] = Value.string(named.text("template"))
    return found | ({"tokenizer.chat_templates": Value.array(ValueType.STRING, sorted(names))} if names else {})


def _template_files(checkpoint: Checkpoint) -> str | list[Mapping[str, Any]] | None:
    """The template of chat_template.jinja, and the named ones of additional_chat_templates beside it."""
    default = checkpoint.text("chat_template.jinja")
    if default is None:
        return None
    folder = "additional_chat_templates"
    others = sorted(path.name for path in (checkpoint.path / folder).glob("*.jinja"))
    if not others:
        return default
    named = [
        {"name": name.removesuffix(".jinja"), "template": checkpoint.text(f"{folder}/{name}") or ""} for name in others
    ]
    return [{"name": "default", "template": default}, *named]


def _processor_template(checkpoint: Checkpoint) -> Any:
    """The template of chat_template.json, which older processors of images have."""
    file = checkpoint.json("chat_template.json")
    return file.get("chat_template") if file else None
