"""Text files into windows of tokens, by the protocol of llama-imatrix and llama-perplexity.

The files are concatenated (one newline at the very end is dropped, as llama.cpp's `--file` does) and tokenized once,
with the special tokens that the tokenizer adds. The tokens are cut into windows of `context` tokens without overlap,
the tail is dropped, and the first token of each window is replaced by BOS where the tokenizer adds one.

With `chat`, the text is what the model sees in use: conversations through its chat template (see `quantpress.chat`),
one by one, concatenated, then cut in the same way. A `.jsonl` file holds a conversation a line,
`{"messages": [{"role": …, "content": …}, …]}`. Any other file is cut at blank lines into passages of about 1,500
characters; the first paragraph of a passage is what the user says, the rest is the reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantpress import gguf
from quantpress.chat import Conversation, Template, render, template_of
from quantpress.errors import TextError

if TYPE_CHECKING:
    from quantpress.engine import Engine, Tokens

__all__ = ["Paths", "chunks", "conversations", "passages", "paths_of", "read_text"]

Paths = str | Path | Sequence[str | Path]

_PASSAGE = 1500
_BLANK_LINES = re.compile(r"\n[ \t\r]*\n\s*")


def paths_of(given: Paths) -> list[Path]:
    """One path or several, as a list: a lone string is no sequence of one-letter names."""
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(one) for one in given]


def chunks(
    engine: Engine, files: Sequence[Path], context: int, *, limit: int | None = None, chat: bool = False
) -> Tokens:
    """int32 [n, context]: the windows of the text of `files`, at most `limit` of them.

    Raises TextError if a file cannot be read, is no UTF-8, or all of them together are too short for one window.
    """
    if context < 1 or (limit is not None and limit < 1):
        raise TextError(None, "chunks", expected="at least one chunk of at least one token", found=(limit, context))
    tokens = _chat_tokens(engine, files) if chat else _plain_tokens(engine, files)
    count = len(tokens) // context if limit is None else min(limit, len(tokens) // context)
    if count == 0:
        raise TextError(
            " ".join(str(file) for file in files) or None,
            "text",
            expected=f"at least {context:,} tokens, for one chunk",
            found=f"{len(tokens):,} token{'' if len(tokens) == 1 else 's'}",
            hint="Give more text or a smaller context",
        )
    windows: Tokens = tokens[: count * context].reshape(count, context).copy()
    if engine.info.add_bos:
        windows[:, 0] = engine.info.bos
    return windows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, as it is; raises TextError with the offset of the first byte that is no UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise TextError(path, "text", expected="a readable file", found=error.strerror) from error
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
        raise TextError(path, "text", expected="UTF-8", found=found, hint="Convert the file to UTF-8") from error


def _plain_tokens(engine: Engine, files: Sequence[Path]) -> Tokens:
    for file in files:
        if Path(file).suffix == ".jsonl":
            raise TextError(file, "text", found="conversations", hint="Render them with chat, or give plain text")
    return engine.tokenize("".join(map(read_text, files)).removesuffix("\n"), add_special=True)


def _chat_tokens(engine: Engine, files: Sequence[Path]) -> Tokens:
    template = _template(engine)
    texts = render(template, [conversation for file in files for conversation in conversations(Path(file))])
    start = np.array([engine.info.bos] if engine.info.add_bos else [], dtype=np.int32)
    pieces = [np.empty(0, dtype=np.int32)]
    for text in texts:
        tokens = engine.tokenize(text, add_special=False, parse_special=True)
        if len(start) and tokens[:1].tolist() != start.tolist():  # most templates write the BOS themselves
            pieces.append(start)
        pieces.append(tokens)
    return np.concatenate(pieces)


def _template(engine: Engine) -> Template:
    model = Path(engine.child.model)
    source = engine.info.chat_template
    if source is None:
        hint = "Use the text without chat, or a model that has a template"
        raise TextError(model, "tokenizer.chat_template", expected="a chat template", found="none", hint=hint)
    with gguf.read(model) as file:
        return template_of(file, source, engine.info.bos, engine.info.eos)  # llama.cpp's, where the file names none


def conversations(path: Path) -> list[Conversation]:
    """The conversations of a `.jsonl` file, or those made of a text's passages; raises TextError naming the line."""
    text = read_text(path)
    if path.suffix != ".jsonl":
        return [_conversation(passage) for passage in passages(text)]
    lines = enumerate(text.split("\n"), 1)
    return [_parsed(path, number, line) for number, line in lines if line.strip()]


def _parsed(path: Path, number: int, line: str) -> Conversation:
    try:
        messages = json.loads(line)["messages"]
    except (ValueError, KeyError, TypeError, RecursionError):
        messages = None
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        expected = '{"messages": [{"role": "…", "content": "…"}, …]}'
        raise TextError(path, f"line {number}", expected=expected, found=line[:80])
    return messages


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def passages(text: str) -> list[list[str]]:
    """A text's paragraphs in groups: each of at least two, and closed once it holds 1,500 characters."""
    groups: list[list[str]] = [[]]
    for paragraph in filter(None, map(str.strip, _BLANK_LINES.split(text))):
        groups[-1].append(paragraph)
        if len(groups[-1]) > 1 and sum(map(len, groups[-1])) >= _PASSAGE:
            groups.append([])
    if len(groups) > 1 and len(groups[-1]) < 2:  # a lone last paragraph belongs to the reply before it
        groups[-2].extend(groups.pop())
    return [group for group in groups if group]


def _conversation(paragraphs: list[str]) -> Conversation:
    first, *rest = paragraphs
    reply = [{"role": "assistant", "content": "\n\n".join(rest)}] if rest else []
    return [{"role": "user", "content": first}, *reply]
