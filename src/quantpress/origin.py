"""Where statistics come from: what the headers of importance matrices and of moments say alike."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.errors import ImatrixError
from quantpress.gguf import GGUF

__all__ = ["Header", "header_of", "strings"]


@dataclass(frozen=True)
class Header:
    """Names of texts, and chunks (held-out ones included) of so many tokens."""

    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


def header_of(file: GGUF, prefix: str) -> Header:
    """Of the keys `PREFIX.datasets`, `PREFIX.chunk_count` and `PREFIX.chunk_size`; raises ImatrixError."""
    names = strings(file, f"{prefix}.datasets")
    datasets = tuple(text.encode(errors="surrogateescape").decode(errors="replace") for text in names)
    return Header(datasets, _whole(file, f"{prefix}.chunk_count"), _whole(file, f"{prefix}.chunk_size"))


def strings(file: GGUF, key: str) -> list[str]:
    """A key that is a list of strings; raises ImatrixError."""
    found = file.get(key)
    if not isinstance(found, list):
        raise ImatrixError(file.path, key, expected="a list of strings", found=found)
    return found


def _whole(file: GGUF, key: str) -> int:
    found = file.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 32:
        raise ImatrixError(file.path, key, expected="a 32-bit number that is not negative", found=found)
    return found
