"""Collect an importance matrix from text, resumably.

After every few chunks the sums so far are written beside the result, in float64, with a digest of all that they depend
on: the model, the tokens, the settings and llama.cpp's version. A run that finds such a file with its own digest goes
on from there, and ends with the same bytes as one that was never interrupted.

With `moments`, the first of their passes over the text collects the importance matrix too; see `moments.collect`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import gguf
from quantpress import text as texts
from quantpress.engine import Engine, Tokens
from quantpress.errors import GGUFError, ImatrixError, InputError, OutputError
from quantpress.files import digest
from quantpress.formats import TYPES
from quantpress.imatrix.file import COUNTS, SUMS, Imatrix, layers, whole_chunks, write
from quantpress.model import check_threads, note_context, read_model
from quantpress.moments import Collection, beside, collect
from quantpress.moments.collect import WIDTH, check_settings, remove_parts, usual_memory
from quantpress.moments.file import note_stale
from quantpress.origin import Header
from quantpress.progress import SILENT, Progress

__all__ = ["imatrix", "partial_path"]

_SAMPLE = 4096
_FEWEST_TOKENS = 16
_BATCH = 2048  # llama-imatrix's: llama.cpp's attention rounds differently with other numbers of sequences in a batch


@dataclass
class _State:
    """The sums over the first `done` chunks: float64 [matrices, cols] and int64 [matrices] by weight."""

    done: int = 0
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def restart(self) -> None:
        """Forget all."""
        self.done, self.sums, self.counts = 0, {}, {}

    def add(self, more: dict[str, tuple[NDArray[Any], NDArray[np.int64]]]) -> None:
        for name, (sums, counts) in more.items():
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums.astype(np.float64)
            self.counts[name] = self.counts[name] + counts if name in self.counts else counts


def imatrix(
    model: str | Path,
    *,
    text: texts.Paths,
    out: str | Path,
    chunks: int | None = None,
    context: int = 512,
    process_output: bool = True,
    chat: bool = False,
    threads: int | None = None,
    gpu_layers: int = 0,
    resume: bool = True,
    every: int = 16,
    moments: bool = False,
    moments_memory: int | None = None,
    moments_width: int = WIDTH,
    progress: Progress = SILENT,
) -> Path:
    """Write the importance matrix of a model for a text, in llama-imatrix's GGUF format, and return its path.

    Args:
        model: a GGUF file, best the unquantized one.
        text: a UTF-8 file or several; see `quantpress.text` for how they become chunks.
        out: the file to write.
        chunks: at most so many chunks, default all that the text holds.
        context: tokens a chunk, at least 16.
        process_output: also for the output: `output.weight`, or `token_embd.weight` where that is the output (tied).
        chat: render the text through the model's chat template.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all.
        resume: go on from what an interrupted run has left.
        every: chunks between two saves.
        moments: also write second moments, to `moments.beside(out)`; a run is then resumed by whole passes only.
        moments_memory: bytes that the matrices of one pass over the text may take, default half of what there is.
        moments_width: of inputs with more columns only diagonal blocks of at most so many are kept.
        progress: told of the chunks done.

    Raises GGUFError, InputError for what is no model or an unusable setting, TextError, EngineError, ImatrixError if
    nothing could be collected, OutputError.
    """
    model, out, files = Path(model), Path(out), texts.paths_of(text)
    _check_settings(out, context, threads)
    memory = usual_memory() if moments_memory is None else moments_memory
    check_settings(memory, moments_width)
    with read_model(model) as file:
        note_context(file, context, progress)
        model_digest = _model_digest(file)
    sequences, datasets = max(1, _BATCH // context), tuple(file.name for file in files)
    with Engine(model, threads=threads, sequences=sequences, gpu_layers=gpu_layers) as engine:
        windows = texts.chunks(engine, files, context, limit=chunks, chat=chat)
        identity = _identity(model_digest, windows, process_output, gpu_layers)
        saves = _Saves(partial_path(out), identity, every)
        state = _resumed(saves.path, identity, progress) if resume else _State()
        if moments:
            header = Header(datasets, len(windows), context)
            job = Collection(beside(out), header, identity, memory, moments_width, resume, every, process_output)
            _collect_moments(engine, windows, state, saves, job, progress)
        else:
            note_stale(out, progress)
            _collect(engine, windows, state, saves, process_output, progress)
    if not layers(state.sums):
        raise ImatrixError(model, "activations", expected="products with weights named blk.*", found="none")
    write(_rounded(state, datasets, context), out)
    partial_path(out).unlink(missing_ok=True)
    remove_parts(beside(out))
    return out


def _check_settings(out: Path, context: int, threads: int | None) -> None:
    """Before hours of work, not after."""
    if context < _FEWEST_TOKENS:
        raise InputError(None, "context", expected=f"at least {_FEWEST_TOKENS} tokens", found=context)
    check_threads(threads)
    if out.is_dir():
        raise OutputError(f"{out}: expected the name of a file, found a folder")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: {out.parent} is {'no folder' if out.parent.exists() else 'missing: make it first'}")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: no permission to write into {out.parent}")


def partial_path(out: Path) -> Path:
    """Where the sums of an unfinished run are kept."""
    return out.with_name(f"{out.name}.partial")


@dataclass(frozen=True)
class _Saves:
    path: Path
    identity: str
    every: int


def _collect(
    engine: Engine, windows: Tokens, state: _State, saves: _Saves, process_output: bool, progress: Progress
) -> None:
    with progress.task("imatrix", total=len(windows), unit="chunks") as advance:
        advance(state.done)
        start = state.done
        if start == len(windows):
            return
        for done, more in engine.activations(windows[start:], every=saves.every, process_output=process_output):
            state.add(more)
            before, state.done = state.done, start + done
            if state.done < len(windows):
                _save(saves, state)
            advance(state.done - before)


def _collect_moments(
    engine: Engine, windows: Tokens, state: _State, saves: _Saves, job: Collection, progress: Progress
) -> None:
    """The sums come with the first pass, or are whole already: a pass that is interrupted starts again."""

    def squares(done: int, more: dict[str, tuple[Any, Any]]) -> None:
        state.add(more)
        state.done = done
        if done == len(windows):
            _save(saves, state)

    whole = state.done == len(windows)
    if state.done and not whole:
        progress.note(f"{saves.path}: of a run without moments: starting again")
        state.restart()
    collect(engine, windows, job, None if whole else squares, progress)


def _rounded(state: _State, datasets: tuple[str, ...], context: int) -> Imatrix:
    sums = {name: values.astype(np.float32) for name, values in state.sums.items()}
    for name, values in sums.items():
        if not np.isfinite(values).all():
            raise ImatrixError(None, name, expected="sums that a float32 can hold", found="an overflow")
    return Imatrix(sums, state.counts, datasets, whole_chunks(state.counts, context), context)


def _identity(model: str, windows: Tokens, process_output: bool, gpu_layers: int) -> str:
    """A digest of all that decides the sums; the number of threads does not."""
    facts = {
        "model": model,
        "tokens": hashlib.sha256(windows.tobytes()).hexdigest(),
        "shape": windows.shape,
        "output_or_tied_embedding": process_output,
        "gpu_layers": gpu_layers,
        "llama_cpp_python": version("llama_cpp_python"),
    }
    return digest(facts)


def _model_digest(file: gguf.GGUF) -> str:
    """Size and time of each part; name, shape, type and first bytes of each tensor: hashing it all takes minutes."""
    found = hashlib.sha256()
    for path in file.paths:
        status = path.stat()
        found.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    for name, tensor in file.tensors.items():
        found.update(f"{name} {tensor.shape} {tensor.type.name}\n".encode())
        found.update(file.data(name)[:1, :_SAMPLE].tobytes())
    return found.hexdigest()


def _save(saves: _Saves, state: _State) -> None:
    metadata = {
        "general.type": gguf.Value.string("quantpress.partial-imatrix"),
        "partial.identity": gguf.Value.string(saves.identity),
        "partial.chunks": gguf.Value.u32(state.done),
    }
    data: dict[str, NDArray[Any]] = {}
    for name, sums in state.sums.items():
        data[name + SUMS], data[name + COUNTS] = sums, state.counts[name][:, None]
    tensors = [gguf.TensorSpec(name, values.shape[::-1], _type(values)) for name, values in data.items()]
    with gguf.Writer(saves.path, metadata, tensors) as writer:
        for name, values in data.items():
            writer.write(name, 0, np.ascontiguousarray(values).view(np.uint8))


def _type(values: NDArray[Any]) -> Any:
    return TYPES["F64" if values.dtype == np.float64 else "I64"]


def _resumed(path: Path, identity: str, progress: Progress) -> _State:
    """What an interrupted run left, if it was this very job; else nothing, and a note that says why."""
    if not path.exists():
        return _State()
    try:
        with gguf.read(path) as file:
            if file.get("partial.identity") != identity:
                progress.note(f"{path}: made from another model, text or settings: starting again")
                return _State()
            state = _loaded(file)
    except GGUFError as error:
        progress.note(f"{error}: starting again")
        return _State()
    progress.note(f"{path}: going on after {state.done:,} chunks")
    return state


def _loaded(file: gguf.GGUF) -> _State:
    state = _State(file.get("partial.chunks"))
    for name, tensor in file.tensors.items():
        dtype, kept = (np.float64, state.sums) if name.endswith(SUMS) else (np.int64, state.counts)
        values = file.data(name).reshape(-1).view(dtype).reshape(tensor.shape[::-1]).copy()
        kept[name.removesuffix(SUMS).removesuffix(COUNTS)] = values if name.endswith(SUMS) else values[:, 0]
    return state
