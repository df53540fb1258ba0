"""Add moments up: sums and tokens add, the samples of all are thinned out to as many as one file has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import ImatrixError
from quantpress.moments.file import (
    MOMENTS,
    SAMPLE,
    SAMPLES,
    Entry,
    Moments,
    beside,
    header_keys,
    note_stale,
    read,
    write_rows,
    writing,
)
from quantpress.origin import Header
from quantpress.progress import SILENT, Progress

__all__ = ["merge", "merge_beside"]


def merge_beside(imatrices: Sequence[str | Path], out: str | Path, progress: Progress = SILENT) -> Path | None:
    """Merge the moments beside importance matrices to what belongs beside `out`, where every one of them has some.

    Returns None, with a note, where only some have; raises as `merge`.
    """
    paths = [beside(path) for path in imatrices]
    missing = [path for path in paths if not path.exists()]
    if not missing:
        return merge(paths, beside(out))
    if len(missing) < len(paths):
        progress.note(f"{beside(out)}: not written, because there is no {', no '.join(map(str, missing))}")
    note_stale(out, progress)
    return None


def merge(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Add moments of one model up and write them.

    Of each matrix at most 512 samples are kept, evenly spread over those of the files one after another. Raises
    ImatrixError where two have other inputs, shared by other weights, or other blocks; GGUFError, OutputError.
    """
    with ExitStack() as stack:
        found = [stack.enter_context(read(path)) for path in paths]
        if not found:
            raise ImatrixError(None, "merge", expected="at least one file", found=0)
        for one in found[1:]:
            _check_same(found[0], one)
        entries = {name: _sum([one.entries[name] for one in found]) for name in found[0].entries}
        with writing(Path(out), header_keys(_header(found)), entries) as writer:
            for name, entry in entries.items():
                row = 0
                for matrix in range(entry.matrices):
                    write_rows(writer, name + MOMENTS, matrix, _sums(found, name, matrix)[None])
                    sample = _thinned(np.concatenate([one.sample(name, matrix) for one in found]))
                    write_rows(writer, name + SAMPLE, row, sample)
                    row += len(sample)
    return Path(out)


def _header(found: Sequence[Moments]) -> Header:
    """Chunks are those of the first file's size."""
    size = found[0].chunk_size
    tokens = sum(one.chunk_count * one.chunk_size for one in found)
    return Header(tuple(name for one in found for name in one.datasets), tokens // size if size else 0, size)


def _check_same(a: Moments, b: Moments) -> None:
    hint = f"It cannot be merged with {a.path}: they belong to different models or were collected differently"
    if only := a.entries.keys() ^ b.entries.keys():
        raise ImatrixError(b.path, "inputs", expected=f"those of {a.path}", found=f"{min(only)} in one only", hint=hint)
    for name, entry in a.entries.items():
        expected, found = ((tuple(sorted(one.weights)), one.blocks, one.matrices) for one in (entry, b.entries[name]))
        if expected != found:
            raise ImatrixError(b.path, name, expected=expected, found=found, hint=hint)


def _sum(entries: Sequence[Entry]) -> Entry:
    sampled = np.minimum(np.sum([one.sampled for one in entries], axis=0), SAMPLES)
    return replace(entries[0], counts=np.sum([one.counts for one in entries], axis=0), sampled=sampled)


def _sums(found: Sequence[Moments], name: str, matrix: int) -> NDArray[np.float32]:
    total = found[0].sums(name, matrix).astype(np.float64)
    for one in found[1:]:
        total += one.sums(name, matrix)
    with np.errstate(over="ignore"):
        sums = total.astype(np.float32)
    if not np.isfinite(sums).all():
        raise ImatrixError(None, name, expected="sums that a float32 can hold", found="an overflow")
    return sums


def _thinned(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows if len(rows) <= SAMPLES else rows[np.arange(SAMPLES) * len(rows) // SAMPLES]
