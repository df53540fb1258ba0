"""Moments files: GGUF, read matrix by matrix, written, checked.

Weights that are multiplied with the same input share its moments: the keys `moments.weights` and `moments.inputs` say
which input each weight has; an input is named after the first of its weights. Of an input NAME with m matrices (an
expert each, or one) of n columns there are

    NAME.moments  F32 [packed, m]   Σ x xᵀ over tokens, the upper triangle in strips of 256 rows (see strips.py)
    NAME.blocks   I64 [k]           widths of the diagonal blocks that are kept; one, n, where all of the matrix is
    NAME.counts   I64 [m]           the tokens summed
    NAME.sample   F32 [n, Σ kept]   inputs of tokens that are not in the sums, as they are, a matrix after another;
                                    absent where there are none
    NAME.sampled  I64 [m]           how many of each matrix

Sums, not means: files add up (`merge`) without rounding twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import gguf
from quantpress.errors import ImatrixError
from quantpress.formats import TYPES
from quantpress.origin import Header, header_of, strings
from quantpress.progress import Progress
from quantpress.strips import ROWS, packed_size, strips, unpacked

__all__ = [
    "Entry",
    "InputMoments",
    "Moments",
    "beside",
    "check_model",
    "entries_of",
    "header_keys",
    "note_stale",
    "read",
    "write_rows",
    "writing",
]

KIND = "quantpress.moments"
SAMPLES = 512  # of a matrix, at most
MOMENTS, BLOCKS, COUNTS, SAMPLE, SAMPLED = ".moments", ".blocks", ".counts", ".sample", ".sampled"
_SUFFIXES = (MOMENTS, BLOCKS, COUNTS, SAMPLE, SAMPLED)
_DTYPES = {"F32": np.dtype(np.float32), "I64": np.dtype(np.int64)}
_OTHER_MODEL = "They were made from another model: make them with `quantpress imatrix --moments`"

Counts = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Of one matrix of one weight.

    `blocks`, float32 [n, n] each: the mean of x xᵀ over `tokens` tokens, in consecutive diagonal blocks; one block is
    the full matrix. `sample`, float32 [held-out tokens, cols], may have no rows.
    """

    blocks: tuple[Floats, ...]
    tokens: int
    sample: Floats


@dataclass(frozen=True, eq=False)
class Entry:
    """An input: the weights that share it, the widths of its blocks, tokens and samples of each matrix."""

    weights: tuple[str, ...]
    blocks: tuple[int, ...]
    counts: Counts
    sampled: Counts

    @property
    def cols(self) -> int:
        """Columns."""
        return sum(self.blocks)

    @property
    def matrices(self) -> int:
        """Matrices: experts, or one."""
        return len(self.counts)


class Moments:
    """A validated file; made by `read`. Any threads may ask it; matrices are read from the disk when they are."""

    def __init__(self, file: gguf.GGUF) -> None:
        self._file = file
        self.path: Path = file.path
        header = _header(file)
        self.datasets, self.chunk_count, self.chunk_size = header.datasets, header.chunk_count, header.chunk_size
        self.entries: Mapping[str, Entry] = entries_of(file)
        self._inputs = {weight: name for name, entry in self.entries.items() for weight in entry.weights}

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that have moments."""
        return tuple(self._inputs)

    def input_of(self, weight: str) -> str:
        """The name of a weight's input; KeyError without one."""
        return self._inputs[weight]

    def covers(self, tensor: gguf.TensorSpec) -> bool:
        """Whether there are moments of a tensor, and of its size."""
        if tensor.name not in self._inputs:
            return False
        entry = self.entries[self._inputs[tensor.name]]
        return (entry.cols, entry.matrices) == (tensor.cols, tensor.matrices)

    def of(self, tensor: gguf.TensorSpec, matrix: int) -> InputMoments | None:
        """Of a tensor's matrix (an expert, or 0); None if it is not covered or no token went that way.

        Raises ImatrixError for values that no sum of squares has, IndexError for a matrix that the tensor has not.
        """
        if not self.covers(tensor):
            return None
        name = self._inputs[tensor.name]
        entry = self.entries[name]
        tokens = int(entry.counts[matrix])
        if tokens == 0:
            return None
        packed = self.sums(name, matrix) / np.float32(tokens)
        return InputMoments(unpacked(packed, entry.blocks), tokens, self.sample(name, matrix))

    def sums(self, name: str, matrix: int) -> Floats:
        """The packed sums of an input's matrix, float32: a view of the file. Raises as `of`."""
        entry, field = self.entries[name], f"tensor {name}{MOMENTS}: matrix {matrix}"
        packed: Floats = self._file.data(name + MOMENTS)[matrix].view(np.float32)
        if not np.isfinite(packed).all():
            raise ImatrixError(self.path, field, expected="finite values", found=packed[~np.isfinite(packed)][0])
        for strip in strips(entry.blocks):
            diagonal = packed[strip.start : strip.stop].reshape(strip.shape).diagonal()
            if diagonal.min() < 0:
                raise ImatrixError(self.path, field, expected="a diagonal that is not negative", found=diagonal.min())
        return packed

    def sample(self, name: str, matrix: int) -> Floats:
        """The held-out inputs of an input's matrix, float32 [n, cols]; raises ImatrixError if they are not finite."""
        entry = self.entries[name]
        first, count = int(entry.sampled[:matrix].sum()), int(entry.sampled[matrix])
        if count == 0:
            return np.empty((0, entry.cols), np.float32)
        found: Floats = self._file.data(name + SAMPLE)[first : first + count].view(np.float32).copy()
        if not np.isfinite(found).all():
            field = f"tensor {name}{SAMPLE}: matrix {matrix}"
            raise ImatrixError(self.path, field, expected="finite values", found=found[~np.isfinite(found)][0])
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Moments:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def beside(imatrix: str | Path) -> Path:
    """Where the moments that were collected with an importance matrix are: I.gguf → I.moments.gguf."""
    imatrix = Path(imatrix)
    return imatrix.with_name(f"{imatrix.name.removesuffix('.gguf')}.moments.gguf")


def note_stale(imatrix: str | Path, progress: Progress) -> None:
    """Say so where moments of something else lie beside an importance matrix that comes without."""
    if beside(imatrix).exists():
        progress.note(f"{beside(imatrix)}: of an earlier run, not of this {Path(imatrix).name}: remove it")


def read(path: str | Path) -> Moments:
    """Open a moments file; raises ImatrixError for a header that is none of one, GGUFError for a bad container.

    The values of a matrix are checked when it is asked for.
    """
    file = gguf.read(path)
    try:
        return Moments(file)
    except BaseException:
        file.close()
        raise


def check_model(moments: Moments, model: gguf.GGUF) -> None:
    """Raise ImatrixError unless the moments can be of this model, as `imatrix.check_model` says.

    Every weight is one of the model's and has its size, and every layer that llama.cpp runs has moments.
    """
    from quantpress.imatrix.audit import layers_run  # here, because `quantpress.imatrix` collects moments
    from quantpress.imatrix.file import layers

    for name in moments.names:
        tensor = model.tensors.get(name)
        entry = moments.entries[moments.input_of(name)]
        found = f"{entry.matrices} × {entry.cols} columns"
        if tensor is None and " (" not in name:  # llama.cpp calls views of a weight "… (reshaped)"
            expected = f"a weight of {model.path}"
            raise ImatrixError(moments.path, name, expected=expected, found="none of that name", hint=_OTHER_MODEL)
        if tensor is not None and not moments.covers(tensor):
            expected = f"{tensor.matrices} × {tensor.cols} columns, as in {model.path}"
            raise ImatrixError(moments.path, name, expected=expected, found=found, hint=_OTHER_MODEL)
    run = layers_run(model)
    if bare := run - layers(moments.names):
        expected, found = f"moments of the {len(run)} layers of {model.path}", f"none of {len(bare)} of them"
        raise ImatrixError(moments.path, f"blk.{min(bare)}", expected=expected, found=found, hint=_OTHER_MODEL)


def _header(file: gguf.GGUF) -> Header:
    kind = file.get("general.type")
    if kind != KIND:
        raise ImatrixError(file.path, "general.type", expected=KIND, found=kind, hint="This file holds no moments")
    return header_of(file, "moments")


def entries_of(file: gguf.GGUF) -> dict[str, Entry]:
    """The inputs of a file, by name, validated against its tensors; raises ImatrixError."""
    weights, inputs = strings(file, "moments.weights"), strings(file, "moments.inputs")
    if len(weights) != len(inputs) or len(set(weights)) != len(weights) or not weights:
        expected, found = "different weights, an input each", f"{len(set(weights))} and {len(inputs)} inputs"
        raise ImatrixError(file.path, "moments.weights", expected=expected, found=found)
    groups: dict[str, list[str]] = {}
    for weight, name in zip(weights, inputs, strict=True):
        groups.setdefault(name, []).append(weight)
    for tensor in file.tensors:
        if not any(tensor == name + suffix for suffix in _SUFFIXES if (name := tensor.removesuffix(suffix)) in groups):
            expected = f"an input of moments.inputs and one of {', '.join(_SUFFIXES)}"
            raise ImatrixError(file.path, f"tensor {tensor}", expected=expected, found=tensor)
    return {name: _entry(file, name, tuple(group)) for name, group in groups.items()}


def _entry(file: gguf.GGUF, name: str, weights: tuple[str, ...]) -> Entry:
    sums = _tensor(file, name + MOMENTS, "F32")
    blocks, counts, sampled = (_table(file, name + suffix) for suffix in (BLOCKS, COUNTS, SAMPLED))
    widths = tuple(map(int, blocks))
    if min(widths) < 1 or sum(widths) > sums.cols or any(width % ROWS for width in widths[:-1]):
        expected = f"widths of at least 1, multiples of {ROWS} but for the last"
        raise ImatrixError(file.path, f"tensor {name}{BLOCKS}", expected=expected, found=list(widths[:8]))
    entry = Entry(weights, widths, counts, sampled)
    for suffix, table in ((COUNTS, counts), (SAMPLED, sampled)):
        if table.min() < 0 or len(table) != sums.rows:
            expected = f"{sums.rows} numbers that are not negative"
            raise ImatrixError(file.path, f"tensor {name}{suffix}", expected=expected, found=table[:8].tolist())
    expected_size, found_size = (packed_size(widths), len(counts)), (sums.cols, sums.rows)
    if expected_size != found_size:
        raise ImatrixError(file.path, f"tensor {name}{MOMENTS}", expected=expected_size, found=found_size)
    rows = _tensor(file, name + SAMPLE, "F32") if name + SAMPLE in file.tensors else None
    expected_size = (entry.cols, sum(map(int, sampled)))
    found_size = (rows.cols, rows.rows) if rows else (entry.cols, 0)
    if expected_size != found_size:
        raise ImatrixError(file.path, f"tensor {name}{SAMPLE}", expected=expected_size, found=found_size)
    return entry


def _tensor(file: gguf.GGUF, name: str, kind: str) -> gguf.Tensor:
    tensor = file.tensors.get(name)
    if tensor is None or tensor.type != TYPES[kind]:
        raise ImatrixError(file.path, f"tensor {name}", expected=kind, found=tensor.type.name if tensor else "none")
    return tensor


def _table(file: gguf.GGUF, name: str) -> Counts:
    _tensor(file, name, "I64")
    found: Counts = file.data(name).reshape(-1).view(np.int64).copy()
    return found


@contextmanager
def writing(path: Path, metadata: gguf.Metadata, entries: Mapping[str, Entry]) -> Iterator[gguf.Writer]:
    """Write a file with these entries, in the order of their names; the caller writes the sums and the samples.

    Raises OutputError, DiskFullError.
    """
    tables: dict[str, NDArray[Any]] = {}
    specs: list[gguf.TensorSpec] = []
    for name in sorted(entries, key=str.encode):
        entry = entries[name]
        small = {BLOCKS: np.array(entry.blocks, np.int64), COUNTS: entry.counts, SAMPLED: entry.sampled}
        tables |= {name + suffix: values for suffix, values in small.items()}
        specs.append(_spec(name + MOMENTS, "F32", packed_size(entry.blocks), entry.matrices))
        specs += [_spec(name + suffix, "I64", len(values)) for suffix, values in small.items()]
        if entry.sampled.any():
            specs.append(_spec(name + SAMPLE, "F32", entry.cols, int(entry.sampled.sum())))
    with gguf.Writer(path, metadata | _keys(entries), specs) as writer:
        for name, values in tables.items():
            write_rows(writer, name, 0, values[None])
        yield writer


def write_rows(writer: gguf.Writer, name: str, row: int, values: NDArray[Any]) -> None:
    """Write rows [n, cols] of a tensor from row `row` on."""
    if len(values):
        writer.write(name, row, np.ascontiguousarray(values).view(np.uint8))


def header_keys(header: Header) -> gguf.Metadata:
    """The keys of a whole file."""
    return {
        "general.type": gguf.Value.string(KIND),
        "moments.datasets": gguf.Value.array(gguf.ValueType.STRING, list(header.datasets)),
        "moments.chunk_count": gguf.Value.u32(header.chunk_count),
        "moments.chunk_size": gguf.Value.u32(header.chunk_size),
    }


def _keys(entries: Mapping[str, Entry]) -> gguf.Metadata:
    """Which weight has which input."""
    pairs = sorted((weight, name) for name, entry in entries.items() for weight in entry.weights)
    texts: Sequence[list[str]] = [weight for weight, _ in pairs], [name for _, name in pairs]
    return {
        f"moments.{key}": gguf.Value.array(gguf.ValueType.STRING, values)
        for key, values in zip(("weights", "inputs"), texts, strict=True)
    }


def _spec(name: str, kind: str, cols: int, rows: int = 1) -> gguf.TensorSpec:
    """In GGUF's order, without the trailing 1 that ggml does not write."""
    return gguf.TensorSpec(name, (cols, rows) if rows > 1 else (cols,), TYPES[kind])
