"""Divergence of assignments of types, measured without writing a file.

The model is loaded once; the types of its weights are swapped in memory (engine/resident.py) and llama.cpp runs the
text on what it would read from a file of these types: the scores are the same, bit for bit. So a probe costs the
forward pass, and the encoding of what no earlier probe had.

A text is a set of windows, of which the float model's predictions are recorded first. `evaluate` would start a process
and load a file for each assignment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import text as texts
from quantpress.encoding import COMPENSATED
from quantpress.engine import Engine, Scores, Tokens
from quantpress.evaluate import SCRATCH_LIMIT, Evaluation, evaluation, gather, reserve, scratch_folder
from quantpress.files import digest
from quantpress.progress import SILENT, Progress
from quantpress.selftext import write_samples

__all__ = ["Meter", "Passage", "meter"]

CONTEXT = 512


@dataclass(frozen=True, eq=False)
class Passage:
    """Windows int32 [n, context] and where the float model's predictions of them wait; `own`: its own scores."""

    windows: Tokens
    distributions: Path
    own: Scores

    @property
    def digest(self) -> str:
        """Of the windows."""
        return digest(self.windows.tolist())


class Meter:
    """A resident model, the way its weights are encoded, and a scratch folder. Made by `meter`."""

    def __init__(self, engine: Engine, scratch: Path, encoding: Mapping[str, Any]) -> None:
        self._engine, self._scratch, self._encoding = engine, scratch, dict(encoding)

    @property
    def compensates(self) -> bool:
        """Whether the weights are encoded with second moments."""
        return bool(self._encoding["effort"] == COMPENSATED)

    def windows(
        self, files: Sequence[Path], *, limit: int | None = None, chat: bool = False, spread: bool = False
    ) -> Tokens:
        """Windows of text files, int32 [n, CONTEXT], at most `limit`: the first, or `spread` over all. TextError."""
        found: Tokens = texts.chunks(self._engine, files, CONTEXT, limit=None if spread else limit, chat=chat)
        if not spread or limit is None or len(found) <= limit:
            return found
        chosen: Tokens = found[np.linspace(0, len(found) - 1, limit).round().astype(int)]
        return chosen

    def sampled(self, purpose: str, chunks: int, progress: Progress = SILENT) -> Path:
        """A text of about so many windows that the float model writes."""
        path = self._scratch / f"{purpose}.txt"
        self._engine.assign({}, **self._encoding)
        write_samples(self._engine, path, purpose, (chunks + 1) * CONTEXT, 0, progress)
        return path

    def passage(self, name: str, windows: Tokens, progress: Progress = SILENT) -> Passage:
        """Record what the float model predicts for windows; raises InputError where the scratch space is too small."""
        distributions = self._scratch / name
        reserve(self._scratch, windows, self._engine.info.vocab, SCRATCH_LIMIT, progress)
        self._engine.assign({}, **self._encoding)
        recorded = self._engine.record(windows, windows.shape[1] // 2, distributions)
        return Passage(windows, distributions, gather(recorded, f"{name} text", windows, progress))

    def scores(self, passage: Passage, types: Mapping[str, str], plain: Collection[str] = ()) -> Scores:
        """The scores of the model with these types (tensor to type; others as they are) on a passage.

        `plain`: tensors that are encoded without their moments.
        """
        self._engine.assign(types, plain=plain, **self._encoding)
        found = self._engine.score(passage.windows, passage.windows.shape[1] // 2, passage.distributions)
        return gather(found, "", passage.windows, SILENT)

    def evaluation(
        self, name: str, passage: Passage, types: Mapping[str, str], plain: Collection[str] = ()
    ) -> Evaluation:
        """All that `evaluate` tells of a file, on a passage; arguments as for `scores`."""
        return evaluation(name, self.scores(passage, types, plain), passage.own)


@contextmanager
def meter(
    model: Path,
    imatrix: str | Path | None,
    *,
    encoder: str,
    effort: str,
    moments: str | Path | None = None,
    scratch: str | Path | None = None,
    threads: int | None = None,
) -> Iterator[Meter]:
    """A model in llama.cpp's process, and a scratch folder that goes with it."""
    path, second = (None if file is None else Path(file) for file in (imatrix, moments))
    with scratch_folder(scratch) as folder, Engine(model, threads=threads, resident=True) as engine:
        yield Meter(engine, folder, {"imatrix": path, "moments": second, "encoder": encoder, "effort": effort})
