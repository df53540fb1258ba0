"""A quantized file, encoded once more so that later layers repair what earlier ones have done (iterated feedback).

    the float model     ─ x ┐
                            ├ sums (pairs.py) → the rows to encode → feedback → the file
    the quantized model ─ y ┘                                            ↓
            └──────────────────────────────────────── the running model

Both models run in llama.cpp; input by input, in the order of the graph, over the same text. What is encoded goes into
the running model at once, so the next inputs are those that its file will see. Types, and so the size, stay as they
are; what has no such input (embeddings, experts, inputs over 16,384 columns wide, those without moments) is copied.

Each matrix is judged on held-out tokens by what the layer's output misses, and stays as it was where that is no worse;
so does each row on the tokens that were summed, which also finds rows whose errors have fed on each other.

Memory: about 60 bytes times the square of an input's columns, and the encoded matrix; weights come by tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpress import text as texts
from quantpress.arrays import Bytes, Floats
from quantpress.compensation import Compensation, compensation_keys, descend, encode
from quantpress.cpu import default_threads
from quantpress.encoding import check_finite, decode
from quantpress.engine import Engine, Tokens
from quantpress.engine.inputs import Input
from quantpress.errors import InputError, PlanError
from quantpress.factor import knows
from quantpress.files import check_place, make_folder
from quantpress.gguf import GGUF, Metadata, Tensor, TensorSpec, Value, Writer, folder_writer
from quantpress.model import check_threads, read_model
from quantpress.moments.collect import WIDTH, held_out
from quantpress.pairs import Held, Pairs, Step, best_step
from quantpress.progress import SILENT, Progress
from quantpress.statistics import open_compensation
from quantpress.text import Paths, paths_of
from quantpress.tiles import RowReader, cuts

__all__ = ["Repair", "repair"]

CONTEXT = 512  # a micro-batch: rows of both models come in the same order
CHUNKS = 64  # with 16 the demo model's files came out worse; 64 and 192 made them better by an eighth
_HELD = 1024  # rows to choose by
_ROWS = 64  # of a matrix, likewise
_EMBEDDING = "token_embd.weight"  # looked up, even if it is the output too
_SHOWN = 8  # names in a message
_HINT = "Give the float model that the file was quantized from"


@dataclass(frozen=True, slots=True)
class Repair:
    """Of a matrix: whether it was encoded anew, and what its output misses on held-out tokens, relative to before.

    Of some of its rows, before those that are better as they were are put back.
    """

    tensor: str
    changed: bool
    ratio: float
    step: Step


def repair(
    model: str | Path,
    quantized: str | Path,
    *,
    text: Paths,
    out: str | Path,
    imatrix: str | Path | None = None,
    moments: str | Path | None = None,
    chunks: int = CHUNKS,
    chat: bool = False,
    threads: int | None = None,
    split_bytes: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Path, list[Repair]]:
    """Write `out`, the quantized file with the same types and other codes; return its path and what was done.

    Args:
        model: the float model, of a split one the first part.
        quantized: a file that was quantized from it, likewise.
        text: files to run through both, as for an importance matrix.
        out: the file; of one that is to be split the name, as in `quantize`.
        imatrix: an importance matrix of the model, with second moments beside it: what feedback is given.
        moments: second moments that lie elsewhere.
        chunks: windows of 512 tokens to use, at least two; every eighth is held out.
        chat: render the text through the chat template.
        threads: default all that this process may use.
        split_bytes: as in `quantize`.
        progress: counts the inputs.

    Raises:
        InputError, PlanError: the file is not quantized from this float model, or has nothing to repair; fewer than two
            windows; a source would be replaced. TextError: too little text. ImatrixError: moments of another model.
        EngineError: llama.cpp refused. GGUFError, OutputError, DiskFullError.
    """
    check_threads(threads)
    if chunks < 2:
        raise InputError(None, "chunks", expected="at least two: every eighth, or the last, is held out", found=chunks)
    files = paths_of(text)
    with _opened(Path(model), Path(quantized), imatrix, moments, threads or default_threads(), progress) as run:
        windows = run.windows(files, chunks, chat)
        inputs = run.wanted(windows)
        writer = folder_writer(Path(out), run.metadata(files[0], len(windows)), _specs(run.given), split_bytes)
        second = run.compensation.moments.path
        given = [] if imatrix is None else [Path(imatrix)]
        check_place(writer.paths, [*run.source.paths, *run.given.paths, second, *given, *files])
        make_folder(writer.paths[0].parent)
        done: list[Repair] = []
        with writer, progress.task("repair", len(inputs), "inputs") as advance:
            run.copy({name for one in inputs for name in one.weights}, writer)
            for one in inputs:
                done += run.encode(one, windows, writer)
                advance(1)
    progress.note(f"encoded anew: {sum(one.changed for one in done)} of {len(done)} matrices")
    return writer.paths[0], done


@contextmanager
def _opened(
    model: Path,
    quantized: Path,
    imatrix: str | Path | None,
    moments: str | Path | None,
    threads: int,
    progress: Progress,
) -> Iterator[_Run]:
    with ExitStack() as stack:
        source, given = stack.enter_context(read_model(model)), stack.enter_context(read_model(quantized))
        readers = stack.enter_context(RowReader(source)), stack.enter_context(RowReader(given))
        _check_same(source, given, readers)
        compensation = stack.enter_context(open_compensation(source, imatrix, moments))  # products take one thread now
        exact = stack.enter_context(Engine(source.path, sequences=1, threads=threads))
        running = stack.enter_context(Engine(given.path, sequences=1, threads=threads, resident=True))
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        yield _Run(source, given, *readers, compensation, exact, running, pool, threads, progress)


def _check_same(source: GGUF, given: GGUF, readers: tuple[RowReader, RowReader]) -> None:
    """Raise InputError for a file that is not of the model: other tensors, or other values in those of its own type.

    PlanError for a model that is quantized itself.
    """
    for tensor in source.tensors.values():
        if tensor.type.quantized:
            where, hint = f"tensor {tensor.name}", "Give the float model first, then the quantized file"
            raise PlanError(source.path, where, expected="a float type", found=tensor.type.name, hint=hint)
    for name in {**source.tensors, **given.tensors}:
        one, other = source.tensors.get(name), given.tensors.get(name)
        if one is None or other is None or one.shape != other.shape:
            expected, found = (file.shape if file else "none" for file in (one, other))
            expected = f"{expected}, as in {source.path}"
            raise InputError(given.path, f"tensor {name}", expected=expected, found=found, hint=_HINT)
        if one.type is other.type and len(one.shape) == 1:
            ours, theirs = (reader.read(of, 0, of.rows) for reader, of in zip(readers, (one, other), strict=True))
            if not np.array_equal(ours, theirs):
                expected = f"the values of {source.path}"
                raise InputError(given.path, f"tensor {name}", expected=expected, found="others", hint=_HINT)


def _specs(given: GGUF) -> list[TensorSpec]:
    return [TensorSpec(name, one.shape, one.type) for name, one in given.tensors.items()]


@dataclass(frozen=True, slots=True)
class _Run:
    """The two models as files, and as they run."""

    source: GGUF
    given: GGUF
    weights: RowReader
    codes: RowReader
    compensation: Compensation
    exact: Engine
    running: Engine
    pool: ThreadPoolExecutor
    threads: int
    progress: Progress

    def windows(self, files: Sequence[Path], limit: int, chat: bool) -> Tokens:
        """The text; raises InputError for a single window."""
        trained = self.exact.info.context
        context = min(CONTEXT, trained) if trained > 0 else CONTEXT
        found = texts.chunks(self.exact, files, context, limit=limit, chat=chat)
        if len(found) < 2:
            expected = f"at least two windows of {context} tokens"
            raise InputError(files[0], "text", expected=expected, found=len(found), hint="Give more text")
        if len(found) < limit:
            words = f"the text has {len(found)} windows, not {limit}: too little text can make a file worse"
            self.progress.note(f"{words}; evaluate both")
        return found

    def wanted(self, windows: Tokens) -> list[Input]:
        """The inputs in their order, with the weights that can be encoded for them; raises InputError for none."""
        found = []
        for one in self.exact.inputs(windows[0], process_output=True):
            weights = tuple(name for name in one.weights if self._encodes(name))
            plain = one.matrices == one.visits == one.rows == 1 and not one.routed and one.cols <= WIDTH
            if weights and plain:
                found.append(replace(one, weights=weights))
        if not found:
            expected = "quantized matrices with moments of their inputs"
            raise InputError(self.given.path, "tensors", expected=expected, found="none")
        done = {name for one in found for name in one.weights}
        left = [name for name, one in self.given.tensors.items() if one.type.quantized and name not in done]
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            self.progress.note(f"copied as they are: {', '.join(left[:_SHOWN])}{more}")
        return found

    def _encodes(self, name: str) -> bool:
        """Whether a tensor is one to encode anew."""
        moments = self.compensation.of(self.source.tensors[name], 0)
        return knows(self.given.tensors[name].type) and moments is not None and name != _EMBEDDING

    def metadata(self, text: Path, chunks: int) -> Metadata:
        """Of the result: the file's, and what it owes to which text."""
        moments = self.compensation.moments
        keys = compensation_keys(next(iter(moments.datasets), None), moments.chunk_count)
        keys["quantize.repaired.dataset"] = Value.string(text.name)
        return {**self.given.metadata, **keys, "quantize.repaired.chunks_count": Value.u32(chunks)}

    def copy(self, but: set[str], writer: Writer) -> None:
        """All tensors but some, to the result."""
        for name, tensor in self.given.tensors.items():
            if name not in but:
                for start, stop in cuts(tensor):
                    writer.write(name, start, self.codes.read(tensor, start, stop))

    def encode(self, one: Input, windows: Tokens, writer: Writer) -> Iterator[Repair]:
        """Collect an input, and encode what is multiplied with it."""
        pairs, held = self._collected(one, windows)
        matrices = [_Matrix(self, pairs, held, self.source.tensors[name]) for name in one.weights]
        step = best_step(pairs, held, np.concatenate([matrix.some for matrix in matrices]))
        for matrix in matrices:
            data, ratio = matrix.encoded(step)
            if data is not None:
                self.running.put(matrix.tensor.name, data)
            writer.write(matrix.tensor.name, 0, matrix.before() if data is None else data)
            yield Repair(matrix.tensor.name, data is not None, ratio, step)

    def _collected(self, one: Input, windows: Tokens) -> tuple[Pairs, Held]:
        """Sums over the windows, and some rows of those that are held out, evenly spread."""
        pairs, held, out = Pairs(one.cols), list[tuple[Floats, Floats]](), held_out(len(windows))
        each = -(-_HELD // len(out))
        dense = not any(tensor.matrices > 1 for tensor in self.source.tensors.values())
        runs = (engine.rows(windows, one.name, stop=dense) for engine in (self.exact, self.running))
        for number, (x, y) in enumerate(zip(*runs, strict=True)):
            if number in out:
                some = _spread(len(x), each)
                held.append((x[some], y[some]))
            else:
                pairs.add(x, y, self.pool)
        return pairs, Held(*(np.concatenate(rows) for rows in zip(*held, strict=True)))


class _Matrix:
    """A matrix on its way: its rows by tiles from the float model, and as they are in the file."""

    def __init__(self, run: _Run, pairs: Pairs, held: Held, tensor: Tensor) -> None:
        self.run, self.pairs, self.held, self.tensor = run, pairs, held, tensor
        self.type = run.given.tensors[tensor.name].type
        self.places = _spread(tensor.rows, _ROWS)
        self.some = np.concatenate([self._rows(row, row + 1) for row in self.places.tolist()])

    def before(self, start: int = 0, stop: int | None = None) -> Bytes:
        """Rows of the file."""
        return self.run.codes.read(self.run.given.tensors[self.tensor.name], start, stop or self.tensor.rows)

    def encoded(self, step: Step) -> tuple[Bytes | None, float]:
        """All rows anew, or None where they are no better; and Repair's ratio."""
        wanted = step.of(self.some)
        dampings = self.run.compensation.dampings(self.tensor, 0)
        damping, error = descend(dampings, lambda damping: self._missed(self._encode(wanted, damping)))
        least = self._missed(np.concatenate([self.before(row, row + 1) for row in self.places.tolist()]))
        if not error < least:
            return None, error / least if least else 1.0
        data = np.empty((self.tensor.rows, self.type.row_bytes(self.tensor.cols)), np.uint8)
        list(self.run.pool.map(partial(self._tile, step, damping, data), cuts(self.tensor)))
        return data, error / least

    def _rows(self, start: int, stop: int) -> Floats:
        found = decode(self.run.weights.read(self.tensor, start, stop), self.tensor.type, self.tensor.cols)
        check_finite(found, self.tensor.name, start)
        return found

    def _encode(self, rows: Floats, damping: float) -> Bytes:
        return encode(rows, self.type, self.run.compensation.factors(self.tensor, 0, self.type, damping))

    def _missed(self, data: Bytes) -> float:
        return self.held.missed(self.some, decode(data, self.type, self.tensor.cols))

    def _tile(self, step: Step, damping: float, data: Bytes, rows: tuple[int, int]) -> None:
        """Row by row the better one of what is new and what is there."""
        weights, old = self._rows(*rows), self.before(*rows)
        new = self._encode(step.of(weights), damping)
        change = self.pairs.change(weights, *(decode(one, self.type, self.tensor.cols) for one in (new, old)))
        new[change > 0] = old[change > 0]
        data[slice(*rows)] = new


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many places, evenly."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))
