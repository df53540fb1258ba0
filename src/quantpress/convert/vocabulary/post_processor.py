"""What the post-processor of tokenizer.json adds to a text: BOS at its start, EOS at its end, a separator in a pair.

llama.cpp knows three switches, so a template must be one of the simple ones, such as `<bos> A` and `<bos> A <eos> B`.
A template also says which tokens have these parts, where tokenizer_config.json is silent or says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantpress.checkpoint import Section
from quantpress.convert.vocabulary.json_lists import objects

__all__ = ["post_process"]

_HINT = 'Command-R has "add_eos_token": false in tokenizer_config.json, which transformers 5 leaves out when it saves'


def post_process(tokenizer: Section, texts: dict[str, str], flags: Mapping[str, bool]) -> dict[str, bool]:
    """Kind of bos, eos, sep to whether it is added; empty where nothing speaks of it.

    `flags` are the settings by which the post-processor is made anew: what they say of BOS and EOS stands.

    `texts` (kind of special token to its text) is completed, and corrected where a template ends with another token
    than EOS: that token becomes `eos`, the old one `eot`, as llama.cpp's converter has it.

    Raises CheckpointError for a template that begins with another token than BOS or CLS, or ends with several, which
    llama.cpp cannot imitate.
    """
    decided = {kind: flag for kind, flag in flags.items() if kind in ("bos", "eos")}
    added: dict[str, bool] = {}
    for processor in _processors(tokenizer):
        kind = processor.get("type")
        if kind == "ByteLevel":
            added = {"bos": False, "eos": False} | added
        elif kind == "RobertaProcessing":
            added |= {"bos": True, "eos": True, "sep": True}
            _complete_pair(texts, processor)
        elif kind == "TemplateProcessing":
            added |= _template(processor, texts, decided)
    return added | decided


def _processors(tokenizer: Section) -> Iterator[Section]:
    processor = tokenizer.section("post_processor")
    if processor.get("processors") is None:
        yield processor
    else:
        yield from objects(processor, "processors")


def _complete_pair(texts: dict[str, str], processor: Section) -> None:
    """RobertaProcessing names its two tokens, each as a text and an id."""
    for kind in ("cls", "sep"):
        entry = processor.get(kind)
        if isinstance(entry, list) and entry and isinstance(entry[0], str):
            texts.setdefault(kind, entry[0])


def _template(template: Section, texts: dict[str, str], decided: Mapping[str, bool]) -> dict[str, bool]:
    single = [_special(part) for part in template.items("single")]
    pair = [_special(part) for part in template.items("pair")]
    first, last = (single[0], single[-1]) if len(single) > 1 else (None, None)
    added = {}
    if first:
        texts.setdefault("bos", first)
    if first and "bos" not in decided:
        _begin(template, texts, first)
        added["bos"] = True
    if last and "eos" not in decided:
        _end(template, texts, last, single[-2])
        added["eos"] = True
    start = 1 if first and pair[:1] == [first] else 0
    stop = -1 if last and pair[-1:] == [last] else None
    between = pair[start:stop][1:-1]  # without what a single text has too, and without the texts themselves
    if between:
        ends = {texts.get("sep"), texts.get("eos")} - {None}
        added["sep"] = (between[0] in ends and not last) or (len(between) == 2 and between[1] in ends)
        if added["sep"] and "eos" in texts:
            texts.setdefault("sep", texts["eos"])
    return added


def _begin(template: Section, texts: dict[str, str], first: str) -> None:
    """A template begins with BOS, or with CLS, which then has to be BOS: llama.cpp puts no other before a text."""
    if first == texts.get("cls"):
        texts["bos"] = first  # llama.cpp's converter accepts CLS too, but leaves the other token to be put there
    if texts["bos"] != first:
        raise template.error("single", f"{texts['bos']} at the start, which llama.cpp adds", first)


def _end(template: Section, texts: dict[str, str], last: str, before: str | None) -> None:
    """A template ends with EOS; where it ends with another token, the old EOS is the end of a turn, or of a message."""
    if before is not None:
        raise template.error("single", "one token at the end: llama.cpp adds no more", f"{before} {last}", _HINT)
    old = texts.get("eos")
    if old is not None and old != last:
        free = next((kind for kind in ("eot", "eom") if kind not in texts), None)
        if free is None:
            raise template.error("single", f"{old} at the end", last)
        texts[free] = old
    texts["eos"] = last


def _special(part: Any) -> str | None:
    """The text of a template's special token; None for the place of a text."""
    token = part.get("SpecialToken") if isinstance(part, Mapping) else None
    text = token.get("id") if isinstance(token, Mapping) else None
    return text if isinstance(text, str) else None
