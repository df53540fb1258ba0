r"""The text that `llama-quantize --tensor-type-file` takes: `pattern=type`, separated by white space.

A pattern is a regular expression, set in lower case and searched for in the name; the first that matches wins. So ours
are anchored and escaped (`^blk\.0\.attn_q\.weight$=q4_k`), and a file that we read is refused where a line has no
effect, because it matches nothing or an earlier line takes all that it matches: llama-quantize says nothing then.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantpress.errors import PlanError
from quantpress.formats import TensorType, tensor_type

__all__ = ["from_text", "to_text"]

_LITERAL = set((string.ascii_lowercase + string.digits + "_-").encode())


def to_text(tensors: Mapping[str, TensorType]) -> str:
    """One line a tensor; every name matches its own line only."""
    return "".join(f"{_pattern(name)}={type.name.lower()}\n" for name, type in tensors.items())


def from_text(text: str, names: Sequence[str], path: str | Path | None = None) -> dict[str, TensorType]:
    """Name to type for those of `names` that a line matches; `path` is for messages.

    Raises PlanError for a malformed line, an unknown type, and a line without effect.
    """
    found: dict[str, TensorType] = {}
    taken: dict[str, str] = {}
    for line in re.split(r"[ \t\n\v\f\r]+", text.strip(" \t\n\v\f\r")) if text.strip() else []:
        pattern, type = _parsed(line, path)
        matched = [name for name in names if pattern.search(name)]
        if not matched:
            raise PlanError(path, f"line {line}", expected="a tensor that can be quantized", found="no match")
        left = [name for name in matched if name not in taken]
        defeated = next((name for name in matched if name in taken and found[name] is not type), None)
        if not left and defeated is not None:
            hint = "The first match wins: remove one of the two"
            raise PlanError(path, f"line {line}", expected="an effect", found=f"{taken[defeated]} before it", hint=hint)
        found.update(dict.fromkeys(left, type))
        taken.update(dict.fromkeys(left, line))
    return found


def _pattern(name: str) -> str:
    """A regular expression for one name; a dot for bytes that the file's syntax or lower case would spoil."""
    escaped = (chr(byte) if byte in _LITERAL else r"\." if byte == ord(".") else "." for byte in name.encode())
    return f"^{''.join(escaped)}$"


def _parsed(line: str, path: str | Path | None) -> tuple[re.Pattern[str], TensorType]:
    text, equals, type = line.partition("=")
    if not text or not equals or "[[:" in text:
        raise PlanError(path, f"line {line}", expected="pattern=type", found=line)
    try:
        return re.compile(text.lower()), tensor_type(type)
    except re.error as error:
        raise PlanError(path, f"line {line}", expected="a regular expression", found=error) from error
