"""Every file loads in llama.cpp, and its predictions on a short text are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantpress.check.books import Books
from quantpress.check.finding import Finding, error
from quantpress.engine import Engine
from quantpress.errors import EngineError
from quantpress.progress import Progress

__all__ = ["check"]

_TEXT = "The lighthouse keeper wrote down the weather every evening: wind from the west, rain before midnight."
_TOKENS = 16
_HINT = "Its weights or its encoding are broken: make it again, and look at the checkpoint's weights"


def check(
    books: Books, files: Sequence[str], threads: int | None, gpu_layers: int, progress: Progress
) -> list[Finding]:
    """A finding for each file that llama.cpp refuses or that computes no numbers."""
    found = []
    with progress.task("load", len(files), "files") as advance:
        for file in files:
            found += _loads(books, file, threads, gpu_layers)
            advance(1)
    return found


def _loads(books: Books, file: str, threads: int | None, gpu_layers: int) -> list[Finding]:
    try:
        with Engine(books.folder / file, threads=threads, sequences=1, gpu_layers=gpu_layers) as engine:
            tokens = engine.tokenize(_TEXT)[:_TOKENS]
            finite = all(np.isfinite(logits).all() for logits in engine.logits(tokens[None, :]))
    except EngineError as problem:
        last = str(problem).splitlines()[-1].strip()  # of llama.cpp's log, which says why
        return [error(file, f"llama.cpp does not run it: {last.replace(f'{books.folder}/', '')}", _HINT)]
    return [] if finite else [error(file, "its predictions are NaN or infinite", _HINT)]
