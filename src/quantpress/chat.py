"""Conversations, rendered through a model's own chat template.

A template is a program that came with a downloaded file. It runs in jinja2's immutable sandbox, with what Hugging Face
templates expect, and in a child process with limits on time, memory and output: a sandbox alone stops neither an
endless loop nor `'a' * 10**10`. The date that a template may ask for is a fixed one: same input, same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.children import python_command
from quantpress.errors import TextError

if TYPE_CHECKING:
    from quantpress.gguf import GGUF

__all__ = ["Conversation", "Template", "Tools", "attempts", "render", "template_of"]

Conversation = list[dict[str, Any]]
Tools = list[dict[str, Any]]
"""What a model may call, as in OpenAI's API: `{"type": "function", "function": {"name": …, "parameters": …}}`."""

_DATE = datetime(2025, 1, 1, 12)
_MEMORY = 2 << 30
_SECONDS = 30.0
_SECONDS_EACH = 0.05
_LENGTH = 1_000_000  # characters of one conversation beyond what its messages and tools hold
_REPEATS = 8  # how often a template may print each of them


@dataclass(frozen=True, slots=True)
class Template:
    """A model's chat template with the texts of its BOS and EOS tokens; `path` is the model, for messages."""

    path: Path
    source: str
    bos: str = ""
    eos: str = ""


def template_of(model: GGUF, source: str, bos: int | None = None, eos: int | None = None) -> Template:
    """A template for a model: its own or another, with the texts of these two tokens, default those of its metadata."""
    names = model.get("tokenizer.ggml.tokens", ())
    known = [
        model.get(f"tokenizer.ggml.{kind}_token_id", -1) if given is None else given
        for kind, given in (("bos", bos), ("eos", eos))
    ]
    return Template(model.path, source, *(names[token] if 0 <= token < len(names) else "" for token in known))


def render(template: Template, conversations: Sequence[Conversation], *, prompt: bool = False) -> list[str]:
    """The text of each conversation; with `prompt`, followed by what opens the model's reply.

    Raises TextError if the template is no template, refuses a conversation, reaches out of its sandbox, or exceeds
    its limits.
    """
    found = attempts(template, [(conversation, None) for conversation in conversations], prompt=prompt)
    for text in found:
        if isinstance(text, TextError):
            raise text
    return [str(text) for text in found]


def attempts(
    template: Template, conversations: Sequence[tuple[Conversation, Tools | None]], *, prompt: bool = False
) -> list[str | TextError]:
    """As `render`, with the tools that each conversation offers; a TextError stands where one is refused.

    Raises TextError if the template is no template, or if it does not end.
    """
    request = {"template": template.source, "bos": template.bos, "eos": template.eos, "prompt": prompt}
    reply = _asked(template, {**request, "conversations": conversations}, _SECONDS + _SECONDS_EACH * len(conversations))
    if "error" in reply:
        raise _refused(template, None, reply["error"])
    return [
        str(found["text"]) if "text" in found else _refused(template, None, f"conversation {number}: {found['error']}")
        for number, found in enumerate(reply["found"], 1)
    ]


def _asked(template: Template, request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the child makes of a request in so many seconds."""
    try:
        child = subprocess.run(
            python_command("from quantpress.chat import main; main()", str(int(2 * seconds) + 1)),
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refused(template, f"at most {seconds:.0f} seconds", "no end") from None
    if child.returncode != 0:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise _refused(template, None, " ".join(last) or f"its process ended with status {child.returncode}")
    reply: dict[str, Any] = json.loads(child.stdout)
    return reply


def _refused(template: Template, expected: str | None, found: str) -> TextError:
    hint = "Use text without chat, or a template that renders plain conversations of user and assistant"
    return TextError(template.path, "tokenizer.chat_template", expected=expected, found=found, hint=hint)


def _environment() -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation_tag()]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=_DATE.strftime)
    return environment


def _generation_tag() -> Any:
    """`{% generation %}…{% endgeneration %}` marks what a model should learn to write; here it is only its body."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    return Generation


def _render_all(request: dict[str, Any]) -> dict[str, Any]:
    given = {"bos_token": request["bos"], "eos_token": request["eos"], "add_generation_prompt": request["prompt"]}
    try:
        template = _environment().from_string(request["template"])
    except Exception as error:  # whatever a foreign program raises
        return {"error": f"{type(error).__name__}: {error}"}
    return {"found": [_rendered(template, given, *conversation) for conversation in request["conversations"]]}


def _rendered(template: Any, given: dict[str, Any], messages: Conversation, tools: Tools | None) -> dict[str, str]:
    limit = _LENGTH + _REPEATS * len(json.dumps([messages, tools]))
    try:
        return {"text": _bounded(template.generate(messages=messages, tools=tools, documents=None, **given), limit)}
    except Exception as error:  # whatever a foreign program raises
        return {"error": f"{type(error).__name__}: {error}"}


def _bounded(pieces: Any, limit: int) -> str:
    kept, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > limit:
            raise ValueError(f"more than {limit:,} characters for one conversation")
        kept.append(piece)
    return "".join(kept)


def _limit_resources(seconds: int) -> None:
    """Of memory and processor time; the latter ends a child whose parent was killed before its own limit."""
    try:
        import resource
    except ImportError:  # Windows: the parent's time limit remains
        return
    for what, limit in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(what, (limit, hard))
        except (ValueError, OSError):  # macOS refuses some: the parent's time limit remains
            continue


def main() -> None:
    """The child: a JSON request on standard input, a JSON reply on standard output."""
    request = json.load(sys.stdin)
    _environment()  # its imports must not count against the limits
    _limit_resources(int(sys.argv[1]))
    json.dump(_render_all(request), sys.stdout)
