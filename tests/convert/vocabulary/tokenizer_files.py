"""Parts of tokenizer.json files, as Hugging Face's tokenizers writes them."""

from __future__ import annotations

from typing import Any

from quantpress.convert.vocabulary.expressions import GPT2


def byte_level(*, use_regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(expression: str, behaviour: str = "Isolated", *, invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behaviour, "invert": invert}


def digits(*, individual: bool = True) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, content: str, *, special: bool = False) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": special, **flags}


def chain(steps: tuple[str, ...]) -> dict[str, Any]:
    """The pre-tokenizer of a row of the table."""
    written = [_step(step) for step in steps]
    if not any(step["type"] == "ByteLevel" for step in written):
        written.append(byte_level())
    return sequence(*written)


def _step(step: str) -> dict[str, Any]:
    if step == GPT2:
        return byte_level(use_regex=True)
    if step.startswith("Punctuation "):
        return {"type": "Punctuation", "behavior": step.removeprefix("Punctuation ")}
    if step.endswith(" MergedWithNext"):
        return split(step.removesuffix(" MergedWithNext"), "MergedWithNext")
    return split(step)


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
