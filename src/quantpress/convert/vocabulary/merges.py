"""The merges of a BPE vocabulary in tokenizer.json: pairs of tokens, the first is applied first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from quantpress.checkpoint import Section

__all__ = ["merge_texts", "never_produced", "read_merges"]

Merges = Sequence[tuple[str, str]]


def read_merges(model: Section, vocabulary: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs, in both notations: `"a b"`, and `["a", "b"]`, where texts may have spaces.

    Raises CheckpointError where there are none, for a malformed one, and for one of tokens that `vocabulary` lacks.
    """
    known = frozenset(vocabulary)
    merges = []
    for place, entry in enumerate(model.items("merges")):
        match entry.split(" ") if isinstance(entry, str) else entry:
            case [str(left), str(right)] if left in known and right in known and left + right in known:
                merges.append((left, right))
            case _:
                raise model.error(f"merges[{place}]", "two tokens of the vocabulary, which has them merged too", entry)
    if not merges:
        raise model.error("merges", "a list of pairs", model.get("merges"))
    return merges


def never_produced(vocabulary: Iterable[str], merges: Merges) -> list[str]:
    """The tokens that merging their own letters does not give: only `ignore_merges` can produce them."""
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    return [text for text in vocabulary if _merged(text, ranks) != [text]]


def _merged(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    parts = list(text)
    while len(parts) > 1:
        pairs = pairwise(parts)
        rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in enumerate(pairs))
        if rank == len(ranks):
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def merge_texts(merges: Merges) -> list[str]:
    """The pairs as GGUF has them: two texts with a space between, a space inside of one as byte-level BPE has it."""
    return [
        f"{left} {right}" if " " not in left + right else f"{_spaceless(left)} {_spaceless(right)}"
        for left, right in merges
    ]


def _spaceless(text: str) -> str:
    return text.replace(" ", "\u0120")
