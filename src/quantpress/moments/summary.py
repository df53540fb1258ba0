"""What a moments file holds: its inputs, and those that saw too few tokens for their width.

The moments of fewer tokens than columns are singular: some direction of the input was never seen, and an encoder that
trusts them can do anything there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress import gguf
from quantpress.errors import GGUFError
from quantpress.moments.file import KIND, Entry, check_model, read

__all__ = ["InputSummary", "holds_moments", "summary"]


@dataclass(frozen=True, slots=True)
class InputSummary:
    """An input; tokens and samples are the fewest of any of its matrices, `singular` those with too few tokens."""

    input: str
    weights: tuple[str, ...]
    columns: int
    blocks: int
    matrices: int
    tokens: int
    tokens_per_column: float
    samples: int
    singular: tuple[int, ...]


def holds_moments(path: str | Path) -> bool:
    """Whether a file says that it is one of moments."""
    try:
        with gguf.read(path) as file:
            return bool(file.get("general.type") == KIND)
    except GGUFError:
        return False


def summary(path: str | Path, *, model: str | Path | None = None) -> list[InputSummary]:
    """The inputs of a file, by name; raises ImatrixError, GGUFError, also if it is of another model."""
    with read(path) as moments:
        if model is not None:
            with gguf.read(model) as file:
                check_model(moments, file)
        return [_summary(name, entry) for name, entry in moments.entries.items()]


def _summary(name: str, entry: Entry) -> InputSummary:
    least = int(entry.counts.min())
    return InputSummary(
        input=name,
        weights=entry.weights,
        columns=entry.cols,
        blocks=len(entry.blocks),
        matrices=entry.matrices,
        tokens=least,
        tokens_per_column=least / max(entry.blocks),
        samples=int(entry.sampled.min()),
        singular=tuple(i for i, tokens in enumerate(entry.counts.tolist()) if tokens < max(entry.blocks)),
    )
