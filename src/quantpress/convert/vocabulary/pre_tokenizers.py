"""Which pre-tokenizer a tokenizer.json describes, by its expressions, and what llama.cpp calls it.

The description is written as a chain of expressions, each of which cuts the pieces that the one before it left. The
chain is looked up as a whole: a pre-tokenizer that differs in one letter is another one, and an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from quantpress.checkpoint import Section
from quantpress.convert.vocabulary.expressions import COVERING, GPT2, PRE_TOKENIZERS, SPELLINGS, PreTokenizer
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.errors import CheckpointError

__all__ = ["recognise"]

_HINT = (
    "If llama.cpp has a name for it (tokenizer.ggml.pre), add a row to quantpress/convert/vocabulary/expressions.py; "
    "if not, no GGUF file of this model can have its tokens"
)


def recognise(tokenizer: Section, *, clean_spaces: bool | None = None) -> PreTokenizer:
    """The pre-tokenizer of a byte-level BPE tokenizer.json.

    Where llama.cpp has two names for it, the one that agrees with the file in `ignore_merges`, in `clean_spaces`
    (None: the checkpoint does not say), and in whether it composes letters.

    Raises CheckpointError for a pre-tokenizer or normalizer that llama.cpp does not know.
    """
    steps = tuple(_steps(tokenizer.section("pre_tokenizer")))
    composes = _composes(tokenizer)
    ignore_merges = bool(tokenizer.section("model").get("ignore_merges", False))
    rows = [row for row in PRE_TOKENIZERS if row.steps == steps]
    if not rows:
        found = ", then ".join(steps) or "none"
        expected = "one that llama.cpp knows"
        raise CheckpointError(tokenizer.path, "pre_tokenizer", expected=expected, found=found[:1000], hint=_HINT)
    return min(
        rows,
        key=lambda row: (
            row.ignore_merges != ignore_merges,
            clean_spaces is not None and row.clean_spaces != clean_spaces,
            row.composes != composes,
        ),
    )


def _steps(section: Section) -> Iterator[str]:
    """The chain of a pre-tokenizer: expressions, with their behaviour where it is not to cut matches out."""
    kind = section.get("type")
    if kind == "Sequence":
        for step in objects(section, "pretokenizers"):
            yield from _steps(step)
    elif kind == "Split":
        yield _split(section)
    elif kind == "Digits":
        yield r"\p{N}" if section.get("individual_digits") else r"\p{N}+"
    elif kind == "Punctuation":
        yield f"Punctuation {section.get('behavior', 'Isolated')}"
    elif kind == "ByteLevel":
        if section.get("add_prefix_space", True):
            raise section.error("add_prefix_space", "false: llama.cpp puts no space before a text", True)
        if section.get("use_regex", True):
            yield GPT2
    elif kind is not None:
        yield str(kind)


def _split(section: Section) -> str:
    pattern, behaviour = section.section("pattern"), section.get("behavior")
    if pattern.get("String") is not None:
        expression = re.escape(pattern.text("String"))
    else:
        expression = _canonical(pattern.text("Regex"))
    inverted = section.get("invert", False) is True
    if behaviour == "Isolated" or (behaviour == "Removed" and inverted and expression in COVERING):
        return expression
    return f"{expression} {behaviour}{' inverted' if inverted else ''}"


def _canonical(expression: str) -> str:
    """An expression as our table spells it."""
    expression = expression.replace("\r", r"\r").replace("\n", r"\n")
    for spelling, ours in SPELLINGS:
        expression = expression.replace(spelling, ours)
    return expression


def _composes(tokenizer: Section) -> bool:
    """Whether letters are composed (NFC), the one normalizer of byte-level BPE that llama.cpp can go without."""
    section = tokenizer.section("normalizer")
    steps = list(objects(section, "normalizers")) if section.get("type") == "Sequence" else [section]
    kinds = [step.get("type") for step in steps if step.values]
    if kinds not in ([], ["NFC"]):
        expected = "none, or NFC: llama.cpp's byte-level BPE takes a text as it is"
        raise tokenizer.error("normalizer", expected, kinds)
    return bool(kinds)
