"""Into which memory a file fits, and which file to take for a memory.

The bytes are llama.cpp's own (`memory.footprint`, in results.json). Memory is sold in powers of two, so a GB is 2^30
bytes here. A part of it belongs to the system, the driver and the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["GB", "LEAST", "MEMORIES", "PART", "fits_in", "picks", "usable"]

GB = 1 << 30
LEAST, PART = GB // 2, 16
"""What stays free of a memory: at least so many bytes, and one in so many."""

MEMORIES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Usual sizes of graphics cards and computers, in GB."""


def usable(memory: int) -> int:
    """Bytes that a model may take of `memory` GB."""
    return memory * GB - max(LEAST, memory * GB // PART)


def fits_in(total: int) -> int | None:
    """The smallest usual memory, in GB, for a model that takes `total` bytes; None if it is too large for all."""
    return next((memory for memory in MEMORIES if total <= usable(memory)), None)


def picks(rows: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The least usual memory, in GB, from which on a row is the one with the lowest divergence that fits; by memory.

    `rows` are those of results.json; the ones without `memory` are passed over.
    """
    known = [row for row in rows if "memory" in row]
    found: list[tuple[int, dict[str, Any]]] = []
    for memory in MEMORIES:
        fitting = [row for row in known if row["memory"]["total"] <= usable(memory)]
        best = min(fitting, key=lambda row: (row["kld_mean"], row["bytes"]), default=None)
        if best is not None and (not found or best is not found[-1][1]):
            found.append((memory, best))
    return found
