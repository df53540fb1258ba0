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
from quantpress.errors import EngineError, OutputError

__all__ = ["record", "score"]

_TILE = 64  # rows packed between two writes: 34 MB at a vocabulary of 262,144


def record(session: Session, chunks: Tokens, first: int, distributions: Path | None) -> Iterator[Scores]:
    """Score int32 chunks [n, length] from position `first` on, and write the distributions unless the path is None.

    Yields the scores [length - first - 1] of each chunk; the model's divergence from itself is nothing. Raises
    EngineError at a logit that is NaN or infinite, OutputError if the file cannot be written.
    """
    if distributions is None:
        for logits, targets in _predictions(session, chunks, first):
            yield _own(_native.score(logits, targets, threads=session.settings.threads))
        return
    try:
        with distributions.open("wb") as file:
            for logits, targets in _predictions(session, chunks, first):
                yield _own(_pack(logits, targets, file, session.settings.threads))
    except OSError as error:
        raise OutputError(f"{distributions}: cannot be written: {error.strerror}") from error


def score(session: Session, chunks: Tokens, first: int, distributions: Path) -> Iterator[Scores]:
    """Compare with the distributions that `record` wrote for the same chunks; yields and raises as it does."""
    rows = chunks.shape[1] - first - 1
    shape = (len(chunks), rows, _native.packed_words(session.n_vocab))
    packed = np.memmap(distributions, np.uint16, "r", shape=shape)
    for base, (logits, targets) in zip(packed, _predictions(session, chunks, first), strict=True):
        yield _checked(Scores(*_native.compare(base, logits, targets, threads=session.settings.threads)))


def _predictions(session: Session, chunks: Tokens, first: int) -> Iterator[tuple[Logits, Tokens]]:
    """Of each window: float32 logits [rows, vocab] at positions first … length - 2, and the tokens that follow."""
    for windows in session.batches(chunks):
        for window, logits in zip(windows, session.forward(windows, first=first), strict=True):
            yield logits[:-1], window[first + 1 :]


def _pack(logits: Logits, targets: Tokens, file: BinaryIO, threads: int) -> NDArray[np.float64]:
    nll = np.empty(len(targets))
    for start in range(0, len(targets), _TILE):
        tile = slice(start, start + _TILE)
        packed = np.empty((len(targets[tile]), _native.packed_words(logits.shape[1])), dtype=np.uint16)
        nll[tile] = _native.pack(logits[tile], targets[tile], packed, threads=threads)
        file.write(packed.data)
    return nll


def _own(nll: NDArray[np.float64]) -> Scores:
    return _checked(Scores(nll, np.zeros(len(nll)), np.ones(len(nll), dtype=np.bool_)))


def _checked(scores: Scores) -> Scores:
    bad = ~(np.isfinite(scores.nll) & np.isfinite(scores.kld))
    if bad.any():
        raise EngineError(
            f"{bad.sum()} of {len(bad)} predictions of a chunk are no distribution: logits are NaN or infinite. "
            "The model's weights are damaged, or its activations overflow"
        )
    return scores
