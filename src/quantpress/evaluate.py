"""Perplexity, and divergence from the unquantized model, by the protocol of `llama-perplexity --kl-divergence`.

The text is cut into windows of `context` tokens; positions context/2 … context - 2 of each are scored, so that every
prediction has half a window behind it. Of each scored position, with p the base's prediction of the next token, q the
quantized model's, and t the token that does follow:

    nll = -ln q(t)      kld = Σ p ln(p/q)      Δp = q(t) - p(t)      same top: argmax p = argmax q

Perplexity is exp(mean nll), its error that times the standard error of the mean nll. The base is run once for all the
others: its distributions wait in a scratch file, two bytes a position and token of the vocabulary. That file decides
how much text is affordable, so its size is told and bounded before the first window is run. The top-k probabilities
alone would be smaller, but a divergence over a part of the vocabulary is not the number that people compare.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import _native, gguf
from quantpress import text as texts
from quantpress.engine import Engine, Scores
from quantpress.errors import DiskFullError, InputError, OutputError
from quantpress.progress import SILENT, Progress

__all__ = ["Evaluation", "evaluate", "evaluations"]

SCRATCH_LIMIT = 20 * 10**9  # bytes

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a file predicts the text. Divergences in nats, errors one sigma; `same_top` and `rms_dp` are fractions."""

    file: str
    tokens: int
    perplexity: float
    perplexity_error: float
    kld_mean: float
    kld_error: float
    kld_median: float
    kld_p90: float
    kld_p95: float
    kld_p99: float
    kld_p999: float
    kld_max: float
    same_top: float
    rms_dp: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as they are written to JSON."""
        return asdict(self)


def evaluate(
    base: str | Path,
    quants: Sequence[str | Path],
    *,
    text: Sequence[str | Path],
    context: int = 512,
    chunks: int | None = None,
    chat: bool = False,
    scratch: str | Path | None = None,
    scratch_limit: int | None = SCRATCH_LIMIT,
    threads: int | None = None,
    gpu_layers: int = 0,
    progress: Progress = SILENT,
) -> list[Evaluation]:
    """Measure `quants` against `base`: see `evaluations`, which also gives the base's own row."""
    space = {"scratch": scratch, "scratch_limit": scratch_limit}
    machine = {"threads": threads, "gpu_layers": gpu_layers, "progress": progress}
    settings: dict[str, Any] = {"context": context, "chunks": chunks, "chat": chat, **space, **machine}
    return list(evaluations(base, quants, text=text, **settings))[1:]


def evaluations(
    base: str | Path,
    quants: Sequence[str | Path],
    *,
    text: Sequence[str | Path],
    context: int = 512,
    chunks: int | None = None,
    chat: bool = False,
    scratch: str | Path | None = None,
    scratch_limit: int | None = SCRATCH_LIMIT,
    threads: int | None = None,
    gpu_layers: int = 0,
    progress: Progress = SILENT,
) -> Iterator[Evaluation]:
    """The evaluation of `base` itself, then that of each of `quants` as it is done.

    Args:
        base: the unquantized model, a GGUF file.
        quants: GGUF files with the same vocabulary.
        text: UTF-8 files; see `quantpress.text` for how they become windows.
        context: tokens a window.
        chunks: use at most so many windows.
        chat: render the text through the base's chat template.
        scratch: folder for the base's distributions, removed at the end; default the system's temporary folder.
        scratch_limit: bytes they may take, None for no limit.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU.
        progress: told of every window, and of the scratch space.

    Raises InputError for another vocabulary, a context under 4 or too small a limit, TextError for unusable text,
    DiskFullError or OutputError for the scratch folder, EngineError where llama.cpp fails or predicts no distribution.
    """
    if context < 4:
        raise InputError(None, "context", expected="at least 4 tokens", found=context)
    _check_vocabularies(Path(base), [Path(quant) for quant in quants])
    machine: dict[str, Any] = {"threads": threads, "gpu_layers": gpu_layers, "context": context}
    first = context // 2
    with _scratch_folder(scratch) as folder:
        distributions = folder / "distributions"
        with Engine(Path(base), **machine) as engine:
            windows = texts.chunks(engine, [Path(file) for file in text], context, limit=chunks, chat=chat)
            if quants:
                _reserve(folder, windows, first, engine.info.vocab, scratch_limit, progress)
            recorded = engine.record(windows, first, distributions if quants else None)
            own = _gather(recorded, base, windows, progress)
        yield _evaluation(base, own, own)
        for quant in quants:
            with Engine(Path(quant), **machine) as engine:
                found = _gather(engine.score(windows, first, distributions), quant, windows, progress)
            yield _evaluation(quant, found, own)


def _check_vocabularies(base: Path, quants: Sequence[Path]) -> None:
    """Token ids must mean the same in all files; raises InputError."""
    expected = _vocabulary(base)
    for quant in quants:
        found = _vocabulary(quant)
        if len(found) != len(expected):
            sizes = {"expected": f"{len(expected):,} tokens, as in {base.name}", "found": f"{len(found):,} tokens"}
            raise InputError(quant, "vocabulary", **sizes, hint="It is no quantized form of that model")
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            if a != b:
                sides = {"expected": f"token {i} to be {a!r}, as in {base.name}", "found": repr(b)}
                raise InputError(quant, "vocabulary", **sides, hint="It is no quantized form of that model")


def _vocabulary(path: Path) -> list[str]:
    with gguf.read(path) as file:
        return list(file.get("tokenizer.ggml.tokens", ()))


@contextmanager
def _scratch_folder(parent: str | Path | None) -> Iterator[Path]:
    """A new folder that goes away with all that is in it."""
    try:
        if parent is not None:
            Path(parent).mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="quantpress-", dir=parent)
    except OSError as error:
        raise OutputError(f"{parent or tempfile.gettempdir()}: no scratch folder: {error.strerror}") from error
    with folder as name:
        yield Path(name)


def _reserve(folder: Path, windows: Tokens, first: int, vocab: int, limit: int | None, progress: Progress) -> None:
    """Tell what the distributions will take; raises InputError above the limit, DiskFullError above the free space."""
    count, context = windows.shape
    a_window = (context - first - 1) * _native.packed_words(vocab) * np.dtype(np.uint16).itemsize
    needed = count * a_window
    if limit is not None and needed > limit:
        fit = limit // a_window
        hint = f"{fit:,} chunks would fit" if fit else f"One chunk needs {a_window:,} bytes"
        found = f"{needed:,} bytes for {count:,} chunks"
        raise InputError(None, "scratch space", expected=f"at most {limit:,} bytes", found=found, hint=hint)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(folder.parent, needed, free)
    progress.note(f"scratch space: {needed:,} bytes in {folder.parent} for {count:,} chunks of {context:,} tokens")


def _gather(items: Iterator[Scores], file: str | Path, windows: Tokens, progress: Progress) -> Scores:
    """All windows' scores, one after the other."""
    parts = []
    with progress.task(f"evaluate {Path(file).name}", total=len(windows), unit="chunks") as advance:
        for scores in items:
            parts.append(scores)
            advance(1)
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))


def _evaluation(file: str | Path, scores: Scores, base: Scores) -> Evaluation:
    perplexity = float(np.exp(scores.nll.mean()))
    median, p90, p95, p99, p999 = np.percentile(scores.kld, (50, 90, 95, 99, 99.9)).tolist()
    return Evaluation(
        file=str(file),
        tokens=len(scores.nll),
        perplexity=perplexity,
        perplexity_error=perplexity * _standard_error(scores.nll),
        kld_mean=float(scores.kld.mean()),
        kld_error=_standard_error(scores.kld),
        kld_median=median,
        kld_p90=p90,
        kld_p95=p95,
        kld_p99=p99,
        kld_p999=p999,
        kld_max=float(scores.kld.max()),
        same_top=float(scores.same_top.mean()),
        rms_dp=float(np.sqrt(np.mean((np.exp(-scores.nll) - np.exp(-base.nll)) ** 2))),
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of independent values [n]; a single value shows no spread: 0."""
    return float(values.std() / np.sqrt(max(len(values) - 1, 1)))
