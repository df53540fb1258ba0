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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import _native
from quantpress import text as texts
from quantpress.engine import Engine, Scores, Tokens
from quantpress.errors import DiskFullError, InputError, OutputError
from quantpress.gguf import GGUF
from quantpress.model import check_threads, note_context, read_model
from quantpress.progress import SILENT, Progress

__all__ = [
    "Evaluation",
    "affordable_chunks",
    "evaluate",
    "evaluation",
    "evaluations",
    "gather",
    "reserve",
    "scratch_folder",
    "standard_error",
    "window_bytes",
]

SCRATCH_LIMIT = 20 * 10**9  # bytes
_FEWEST_TOKENS = 4
_OTHER_MODEL = "It is no quantized form of that model"


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
    quants: texts.Paths,
    *,
    text: texts.Paths,
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
    quants: texts.Paths,
    *,
    text: texts.Paths,
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
        quants: a GGUF file or several, of the same model; one that is `base` itself is not run again.
        text: a UTF-8 file or several; see `quantpress.text` for how they become windows.
        context: tokens a window.
        chunks: use at most so many windows.
        chat: render the text through the base's chat template.
        scratch: folder for the base's distributions, removed at the end; default the system's temporary folder.
        scratch_limit: bytes they may take, None for no limit.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU.
        progress: told of every window, and of the scratch space.

    Raises GGUFError, InputError for a file of another model, an unusable setting or too small a limit, TextError for
    unusable text, DiskFullError or OutputError for the scratch folder, EngineError where llama.cpp fails or predicts no
    distribution.
    """
    base, files = Path(base), texts.paths_of(quants)
    _check_settings(context, threads, scratch_limit)
    _check_models(base, files, context, progress)
    others = [file for file in files if not file.samefile(base)]
    machine: dict[str, Any] = {"threads": threads, "gpu_layers": gpu_layers}
    first = context // 2
    with scratch_folder(scratch) as folder:
        distributions = folder / "distributions"
        with Engine(base, **machine) as engine:
            windows = texts.chunks(engine, texts.paths_of(text), context, limit=chunks, chat=chat)
            if others:
                reserve(folder, windows, engine.info.vocab, scratch_limit, progress)
            recorded = engine.record(windows, first, distributions if others else None)
            own = gather(recorded, base, windows, progress)
        yield evaluation(base, own, own)
        for file in files:
            found = own
            if file in others:
                with Engine(file, **machine) as engine:
                    found = gather(engine.score(windows, first, distributions), file, windows, progress)
            yield evaluation(file, found, own)


def affordable_chunks(vocab: int, context: int, limit: int) -> int:
    """How many windows of `context` tokens have distributions that fit into `limit` bytes; raises InputError."""
    _check_settings(context, None, limit)
    return limit // window_bytes(vocab, context)


def window_bytes(vocab: int, context: int) -> int:
    """What the base's distributions of one window take."""
    return (context - context // 2 - 1) * _native.packed_words(vocab) * np.dtype(np.uint16).itemsize


def _check_settings(context: int, threads: int | None, scratch_limit: int | None) -> None:
    if context < _FEWEST_TOKENS:
        raise InputError(None, "context", expected=f"at least {_FEWEST_TOKENS} tokens", found=context)
    check_threads(threads)
    if scratch_limit is not None and scratch_limit < 0:
        raise InputError(None, "scratch limit", expected="0 bytes or more", found=scratch_limit)


def _check_models(base: Path, quants: Sequence[Path], context: int, progress: Progress) -> None:
    """Raise InputError unless token ids mean the same in all files, and the tensors differ in nothing but type."""
    with read_model(base) as model:
        note_context(model, context, progress)
    tokens, shapes = _tokens(model), _shapes(model)
    for quant in quants:
        with read_model(quant) as model:
            _check_tokens(tokens, _tokens(model), quant, base)
            _check_shapes(shapes, _shapes(model), quant, base)


def _tokens(model: GGUF) -> list[str]:
    return list(model.get("tokenizer.ggml.tokens", ()))


def _shapes(model: GGUF) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in model.tensors.items()}


def _check_tokens(expected: list[str], found: list[str], quant: Path, base: Path) -> None:
    if len(found) != len(expected):
        sizes = {"expected": f"{len(expected):,} tokens, as in {base.name}", "found": f"{len(found):,} tokens"}
        raise InputError(quant, "vocabulary", **sizes, hint=_OTHER_MODEL)
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a != b:
            sides = {"expected": f"token {i} to be {a!r}, as in {base.name}", "found": repr(b)}
            raise InputError(quant, "vocabulary", **sides, hint=_OTHER_MODEL)


def _check_shapes(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], quant: Path, base: Path
) -> None:
    for name in expected | found:
        a, b = (" × ".join(map(str, shapes.get(name, ["no such tensor"]))) for shapes in (expected, found))
        if a != b:
            raise InputError(quant, f"tensor {name}", expected=f"{a}, as in {base.name}", found=b, hint=_OTHER_MODEL)


@contextmanager
def scratch_folder(parent: str | Path | None) -> Iterator[Path]:
    """A new folder that goes away with all that is in it, as do the folders made for it."""
    with ExitStack() as stack:
        try:
            if parent is not None:
                stack.callback(_remove, [one for one in (Path(parent), *Path(parent).parents) if not one.exists()])
                Path(parent).mkdir(parents=True, exist_ok=True)
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="quantpress-", dir=parent))
        except OSError as error:
            raise OutputError(f"{parent or tempfile.gettempdir()}: no scratch folder: {error.strerror}") from error
        yield Path(name)


def _remove(folders: Sequence[Path]) -> None:
    """The innermost first; whatever somebody else uses by now stays."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def reserve(folder: Path, windows: Tokens, vocab: int, limit: int | None, progress: Progress) -> None:
    """Tell what the distributions will take; raises InputError above the limit, DiskFullError above the free space."""
    count, context = windows.shape
    needed = count * window_bytes(vocab, context)
    if limit is not None and needed > limit:
        fit = affordable_chunks(vocab, context, limit)
        hint = f"{fit:,} chunks would fit" if fit else f"One chunk needs {window_bytes(vocab, context):,} bytes"
        found = f"{needed:,} bytes for {count:,} chunks"
        raise InputError(None, "scratch space", expected=f"at most {limit:,} bytes", found=found, hint=hint)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(folder.parent, needed, free)
    progress.note(f"scratch space: {needed:,} bytes in {folder.parent} for {count:,} chunks of {context:,} tokens")


def gather(items: Iterator[Scores], file: str | Path, windows: Tokens, progress: Progress) -> Scores:
    """All windows' scores, one after the other."""
    parts = []
    with progress.task(f"evaluate {Path(file).name}", total=len(windows), unit="chunks") as advance:
        for scores in items:
            parts.append(scores)
            advance(1)
    return Scores(*map(np.concatenate, zip(*parts, strict=True)))


def evaluation(file: str | Path, scores: Scores, base: Scores) -> Evaluation:
    """The numbers of a file from the scores of all positions, its own and the base's."""
    perplexity = float(np.exp(scores.nll.mean()))
    median, p90, p95, p99, p999 = np.percentile(scores.kld, (50, 90, 95, 99, 99.9)).tolist()
    return Evaluation(
        file=str(file),
        tokens=len(scores.nll),
        perplexity=perplexity,
        perplexity_error=perplexity * standard_error(scores.nll),
        kld_mean=float(scores.kld.mean()),
        kld_error=standard_error(scores.kld),
        kld_median=median,
        kld_p90=p90,
        kld_p95=p95,
        kld_p99=p99,
        kld_p999=p999,
        kld_max=float(scores.kld.max()),
        same_top=float(scores.same_top.mean()),
        rms_dp=float(np.sqrt(np.mean((np.exp(-scores.nll) - np.exp(-base.nll)) ** 2))),
    )


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of independent values [n]; a single value shows no spread: 0."""
    return float(values.std() / np.sqrt(max(len(values) - 1, 1)))
