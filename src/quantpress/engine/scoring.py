"""Scores of a model's predictions, computed where the logits are: they never cross the pipe.

The base model's distributions go to a file, rows in the order of the positions, packed to two bytes a token of the
vocabulary (native/kernels/divergence.hpp); the other models are compared with that file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quantpress import _native
from quantpress.engine.messages import Scores, Tokens
from quantpress.engine.session import Logits, Session
from quantpress.errors import EngineError
from quantpress.files import output_errors

__all__ = ["record", "score"]

_TILE = 64  # rows packed between two writes: 34 MB at a vocabulary of 262,144


def record(session: Session, chunks: Tokens, first: int, distributions: Path | None) -> Iterator[Scores]:
    """Score int32 chunks [n, length] from position `first` on, and write the distributions unless the path is None.

    Yields the scores [length - first - 1] of each chunk; the model's divergence from itself is nothing. Raises
    EngineError at a logit that is NaN or infinite, DiskFullError or OutputError if the file cannot be written.
    """
    rows, threads = chunks.shape[1] - first - 1, session.settings.threads
    predictions = _predictions(session, chunks, first)
    if distributions is None:
        yield from _windows((_own(_native.score(*found, threads=threads)) for found in predictions), rows)
        return
    needed = len(chunks) * rows * _native.packed_words(session.n_vocab) * np.dtype(np.uint16).itemsize
    with output_errors(distributions, needed), distributions.open("wb") as file:
        yield from _windows((_own(_pack(*found, file, threads)) for found in predictions), rows)


def score(session: Session, chunks: Tokens, first: int, distributions: Path) -> Iterator[Scores]:
    """Compare with the distributions that `record` wrote for the same chunks; yields and raises as it does."""
    rows = chunks.shape[1] - first - 1
    shape = (len(chunks) * rows, _native.packed_words(session.n_vocab))
    packed = np.memmap(distributions, np.uint16, "r", shape=shape)
    yield from _windows(_compared(packed, _predictions(session, chunks, first), session.settings.threads), rows)


def _compared(
    packed: NDArray[np.uint16], predictions: Iterator[tuple[Logits, Tokens]], threads: int
) -> Iterator[Scores]:
    row = 0
    for logits, targets in predictions:
        base = packed[row : row + len(targets)]
        row += len(targets)
        yield Scores(*_native.compare(base, logits, targets, threads=threads))


def _predictions(session: Session, chunks: Tokens, first: int) -> Iterator[tuple[Logits, Tokens]]:
    """Window by window, each in one piece or in consecutive ones: logits [rows, vocab] and the tokens that follow.

    The rows of a window are its positions first … length - 2.
    """
    session.check_predicts()
    for windows in session.batches(chunks):
        for start, piece in session.forward(windows, first=first):
            for window, logits in zip(windows, piece, strict=True):
                targets = window[start + 1 : start + 1 + len(logits)]
                yield logits[: len(targets)], targets


def _windows(pieces: Iterator[Scores], rows: int) -> Iterator[Scores]:
    """Join the pieces of each window, which has `rows` scores."""
    parts: list[Scores] = []
    for piece in pieces:
        parts.append(piece)
        if sum(len(part.nll) for part in parts) == rows:
            yield _checked(Scores(*map(np.concatenate, zip(*parts, strict=True))))
            parts = []


def _pack(logits: Logits, targets: Tokens, file: BinaryIO, threads: int) -> NDArray[np.float64]:
    nll = np.empty(len(targets))
    for start in range(0, len(targets), _TILE):
        tile = slice(start, start + _TILE)
        packed = np.empty((len(targets[tile]), _native.packed_words(logits.shape[1])), dtype=np.uint16)
        nll[tile] = _native.pack(logits[tile], targets[tile], packed, threads=threads)
        file.write(packed.data)
    return nll


def _own(nll: NDArray[np.float64]) -> Scores:
    return Scores(nll, np.zeros(len(nll)), np.ones(len(nll), dtype=np.bool_))


def _checked(scores: Scores) -> Scores:
    bad = ~(np.isfinite(scores.nll) & np.isfinite(scores.kld))
    if bad.any():
        raise EngineError(
            f"{bad.sum()} of {len(bad)} predictions of a chunk are no distribution: logits are NaN or infinite. "
            "The model's weights are damaged, or its activations overflow"
        )
    return scores
