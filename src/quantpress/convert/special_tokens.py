"""The ids of special tokens, whether BOS and EOS are added to a text, and the chat template.

These come from tokenizer_config.json; the post-processor of tokenizer.json, which is what runs, has the last word on
what is added; config.json fills in ids. Read as llama.cpp's own converter reads them. (`gguf.SpecialVocab` is that
converter's code, but the version of it that is published differs from the one that llama.cpp carries.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["special_tokens"]

# Kind in the tokenizer's files → name in GGUF keys. "seperator" is how the format spells it.
_KINDS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "cls": "cls",
    "mask": "mask",
}


def special_tokens(checkpoint: Checkpoint, size: int) -> Metadata:
    """The keys `tokenizer.ggml.*_token_id` and `add_*_token`, and `tokenizer.chat_template`, for `size` tokens.

    Raises CheckpointError for malformed files and for a post-processor that llama.cpp cannot imitate.
    """
    settings = checkpoint.json("tokenizer_config.json") or Section(checkpoint.path / "tokenizer_config.json", {})
    tokenizer = checkpoint.json("tokenizer.json") or Section(checkpoint.path / "tokenizer.json", {})
    found: Metadata = {}
    for kind, number in _ids(checkpoint.config, settings, tokenizer, size).items():
        found[f"tokenizer.ggml.{_KINDS[kind]}_token_id"] = Value.u32(number)
    for kind, added in _added(settings, tokenizer).items():
        found[f"tokenizer.ggml.add_{kind}_token"] = Value.bool_(added)
    return found | _chat_template(checkpoint, settings)


def _ids(config: Section, settings: Section, tokenizer: Section, size: int) -> dict[str, int]:
    """Kind to id: the text that tokenizer_config.json gives, looked up in tokenizer.json; else from config.json."""
    numbers: dict[str | None, Any] = {}
    for token in tokenizer.items("added_tokens"):
        entry = Section(tokenizer.path, token if isinstance(token, dict) else {}, "added_tokens")
        numbers.setdefault(entry.text("content"), entry.integer("id", least=0))
    text_config = config.section("text_config")
    found = {}
    for kind in _KINDS:
        number = numbers.get(_content(settings, kind))
        if number is None or number >= size:
            number = config.get(f"{kind}_token_id", text_config.get(f"{kind}_token_id"))
        if type(number) is int and 0 <= number < size:  # a list of ids names no single one
            found[kind] = number
    return found


def _content(settings: Section, kind: str) -> str | None:
    """The text of a special token, which is a string or an object with `content`."""
    entry = settings.get(f"{kind}_token")
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) else None


def _added(settings: Section, tokenizer: Section) -> dict[str, bool]:
    """Kind of bos, eos, sep to whether it is added to a text; without those that no file speaks of."""
    found = {
        kind: added for kind in ("bos", "eos", "sep") if isinstance(added := settings.get(f"add_{kind}_token"), bool)
    }
    processor = tokenizer.section("post_processor")
    for entry in processor.items("processors") or [processor.values]:
        if isinstance(entry, dict) and entry.get("type") == "TemplateProcessing":
            found |= _template_adds(Section(tokenizer.path, entry, "post_processor"), settings)
    return found


def _template_adds(template: Section, settings: Section) -> dict[str, bool]:
    """What a template such as `<bos> A` for one text and `<bos> A <bos> B` for two adds."""
    bos, eos, separator = (_content(settings, kind) for kind in ("bos", "eos", "sep"))
    single = [_special(part) for part in template.items("single")]
    pair = [_special(part) for part in template.items("pair")]
    first, last = (single[0], single[-1]) if len(single) > 1 else (None, None)
    found = {}
    if first:
        if first != (bos or first):
            raise template.error("single", f"{bos} at the start", first)
        found["bos"] = True
    if last:
        if last != (eos or last):
            raise template.error("single", f"{eos} at the end", last)
        found["eos"] = True
    start = 1 if first and pair[:1] == [first] else 0
    stop = -1 if last and pair[-1:] == [last] else None
    between = pair[start:stop][1:-1]  # without what a single text has too, and without the texts themselves
    if between:
        ends = {text for text in (separator, eos) if text}
        found["sep"] = (between[0] in ends and not last) or (len(between) == 2 and between[1] in ends)
    return found


def _special(part: Any) -> str | None:
    """The text of a template's special token; None for the place of a text."""
    token = part.get("SpecialToken") if isinstance(part, Mapping) else None
    text = token.get("id") if isinstance(token, Mapping) else None
    return text if isinstance(text, str) else None


def _chat_template(checkpoint: Checkpoint, settings: Section) -> Metadata:
    """`tokenizer.chat_template`, and the named ones beside it."""
    template = settings.get("chat_template", _template_files(checkpoint))
    chosen = settings.merged({"chat_template": template})
    if isinstance(template, str):
        return {"tokenizer.chat_template": Value.string(chosen.text("chat_template"))}
    found, names = {}, []
    for choice in chosen.items("chat_template"):
        named = Section(settings.path, choice if isinstance(choice, dict) else {}, "chat_template")
        name = re.sub("[^A-Za-z0-9]", "_", named.text("name"))
        if name != "default":
            names.append(name)
        suffix = "" if name == "default" else f".{name}"
        found[f"tokenizer.chat_template{suffix}"] = Value.string(named.text("template"))
    return found | ({"tokenizer.chat_templates": Value.array(ValueType.STRING, sorted(names))} if names else {})


def _template_files(checkpoint: Checkpoint) -> str | list[dict[str, str]] | None:
    """The template in files of its own: chat_template.jinja and additional_chat_templates, or chat_template.json."""
    default = checkpoint.text("chat_template.jinja")
    if default is None:
        file = checkpoint.json("chat_template.json")
        return file.get("chat_template") if file else None
    folder = "additional_chat_templates"
    others = sorted(path.name for path in (checkpoint.path / folder).glob("*.jinja"))
    if not others:
        return default
    named = [
        {"name": name.removesuffix(".jinja"), "template": checkpoint.text(f"{folder}/{name}") or ""} for name in others
    ]
    return [{"name": "default", "template": default}, *named]
