"""The chat template: that it renders in the sandbox, what it takes, and that it is the checkpoint's.

Every file has the template of the float model (see headers.py), so one is looked at. Templates are compared by what
they make of a set of conversations, since a converter may write one in other words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.chat import Conversation, Template, Tools, attempts, template_of
from quantpress.check.books import Books
from quantpress.check.finding import Finding, error, note, warning
from quantpress.check.headers import reference
from quantpress.errors import TextError
from quantpress.files import file_digest
from quantpress.gguf import GGUF

__all__ = ["check"]

KEY = "tokenizer.chat_template"
_CALL = {"name": "weather_of", "arguments": {"city": "Oslo"}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather_of",
        "description": "The weather of a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class _Case:
    """A conversation; `shows`: what a template that understands it writes somewhere.

    `lacking`: how it is told that the template does not; not at all, if it does not understand one of `after` either.
    """

    messages: Conversation
    shows: str
    tools: Tools | None = None
    lacking: Callable[[str, str], Finding] = note
    after: tuple[str, ...] = ()


def _said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


_SYSTEM, _QUESTION = _said("system", "You are a lighthouse keeper."), _said("user", "What is the weather like in Oslo?")
_TURNS = [_QUESTION, _said("assistant", "Rain."), _said("user", "And tomorrow?")]
_CALLED = [_QUESTION, _said("assistant", "", tool_calls=[{"type": "function", "function": _CALL}])]
_ANSWERED = [*_CALLED, _said("tool", "rain, 7 degrees", name="weather_of")]
_CASES = {
    "a question": _Case([_QUESTION], "in Oslo?", lacking=error),
    "several turns": _Case(_TURNS, "And tomorrow?", lacking=warning, after=("a question",)),
    "a system turn": _Case([_SYSTEM, _QUESTION], "lighthouse", after=("a question",)),
    "tools": _Case([_QUESTION], "weather_of", [_TOOL], after=("a question",)),
    "a system turn and tools": _Case([_SYSTEM, _QUESTION], "weather_of", [_TOOL], after=("a system turn", "tools")),
    "a tool's answer": _Case(_ANSWERED, "7 degrees", [_TOOL], after=("tools",)),
}
_Texts = dict[str, str | TextError]


def check(books: Books, files: Mapping[str, GGUF], checkpoint: Path | None) -> list[Finding]:
    """Findings about the template; raises CheckpointError for a checkpoint that cannot be read."""
    found = reference(books, files)
    if found is None:
        return []
    name, model = found
    file = name if name in files else next(iter(files), name)
    original = None if checkpoint is None else _original(checkpoint)
    findings = [] if checkpoint is None else _origin(books, checkpoint)
    source = model.get(KEY)
    if source is None:
        findings.append(note(file, "no chat template: the model is offered for no chat"))
    if checkpoint is not None and (source is None) != (original is None):
        findings.append(error(file, f"{KEY}: the checkpoint has {'none' if original is None else 'one'}"))
    if source is None:
        return findings
    ours = _texts(template_of(model, source))
    findings += _abilities(file, ours)
    if original is not None and original != source:
        findings += _compared(file, ours, _texts(template_of(model, original)))
    return findings


def _texts(template: Template) -> _Texts:
    """What a template makes of each case; what is no template refuses them all."""
    conversations = [(case.messages, case.tools) for case in _CASES.values()]
    try:
        return dict(zip(_CASES, attempts(template, conversations, prompt=True), strict=True))
    except TextError as problem:
        return dict.fromkeys(_CASES, problem)


def _abilities(file: str, texts: _Texts) -> list[Finding]:
    """What the template takes and what it refuses or leaves out."""
    found = []
    lacking: set[str] = set()
    for name, case in _CASES.items():
        text = texts[name]
        if isinstance(text, str) and case.shows in text:
            continue
        told = lacking & set(case.after)
        lacking.add(name)
        if told:
            continue
        what = f"leaves out {name}" if isinstance(text, str) else f"refuses {name}: {_reason(text)}"
        found.append(case.lacking(file, f"the chat template {what}"))
    return found


def _reason(refusal: TextError) -> str:
    return re.sub(r"conversation \d+: ", "", str(refusal.found))


def _compared(file: str, ours: _Texts, theirs: _Texts) -> list[Finding]:
    """A finding if there is a case of which two templates make different texts, or that only one of them refuses."""
    plain = [
        {name: text if isinstance(text, str) else None for name, text in texts.items()} for texts in (ours, theirs)
    ]
    different = [name for name in _CASES if plain[0][name] != plain[1][name]]
    if not different:
        return []
    what = f"the chat template makes another text of {', '.join(different)} than the checkpoint's"
    return [error(file, what, "Convert the checkpoint again")]


def _original(folder: Path) -> str | None:
    """The checkpoint's template, as the converter takes it."""
    from quantpress import checkpoint  # these two know every tokenizer: not every check needs them
    from quantpress.convert.vocabulary.chat_template import chat_template
    from quantpress.convert.vocabulary.files import read_files

    found = chat_template(read_files(checkpoint.read(folder))).get(KEY)
    return None if found is None else str(found.value)


def _origin(books: Books, folder: Path) -> list[Finding]:
    """Whether a checkpoint is the one that the release was made from, as far as release.json knows its files."""
    source = books.facts.get("source")
    pairs = source.get("sha256", []) if isinstance(source, dict) else []
    recorded = dict(pair for pair in pairs if isinstance(pair, list) and len(pair) == 2)
    names = [name for name in ("config.json", "tokenizer_config.json", "chat_template.jinja") if name in recorded]
    other = [name for name in names if not (folder / name).is_file() or file_digest(folder / name) != recorded[name]]
    if not other:
        return []
    return [warning("release.json", f"made from another checkpoint than {folder.name}: {', '.join(other)} differ")]
