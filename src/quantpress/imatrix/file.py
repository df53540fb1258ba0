"""Importance matrices: llama.cpp's GGUF format, read, written and merged.

For each weight two F32 tensors: `<name>.in_sum2` [cols, matrices], the sums over tokens of the squared inputs, and
`<name>.counts` [1, matrices], the tokens summed over. A mixture of experts has a matrix an expert; every other weight
has one. An entry of a weight with several matrices that all see every token (MLA) lies in one row, its matrices in
turn, with one count: ask `importance` for as many matrices as the weight has.

The importance of a column is sum / count, in float32, exactly as llama-quantize divides; a matrix that saw no token
counts every column as 1.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress import gguf
from quantpress.errors import ImatrixError
from quantpress.formats import TYPES
from quantpress.imatrix.legacy import read_legacy
from quantpress.metadata import ImatrixInfo
from quantpress.origin import header_of

__all__ = ["Imatrix", "layers", "merge", "read", "whole_chunks", "write"]

Sums = NDArray[np.float32]
Counts = NDArray[np.int64]

SUMS, COUNTS = ".in_sum2", ".counts"
_CHUNK_SIZE = 512
_MOST_TOKENS = 2.0**53
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix.

    `sums` float32 [matrices, cols] and `counts` int64 [matrices] by the weight's name; `chunk_size` in tokens, 0 if the
    file does not say. `legacy`: from a `.dat` file, whose sums are means times a count of chunks.
    """

    sums: Mapping[str, Sums]
    counts: Mapping[str, Counts]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    path: Path | None = None
    legacy: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that have an entry."""
        return tuple(self.sums)

    @property
    def info(self) -> ImatrixInfo:
        """What a model quantized with it says of it: file names only, a published file is no place for local paths."""
        return ImatrixInfo(
            file=self.path.name if self.path else "",
            dataset=Path(self.datasets[0]).name if self.datasets else None,
            entries=len(self.sums),
            chunks=self.chunk_count,
        )

    def tokens(self, name: str) -> Counts:
        """int64 [matrices], the tokens that each matrix saw; chunks of a legacy file count as 512 tokens."""
        return self.counts[name] * (_CHUNK_SIZE if self.legacy else 1)

    def importance(self, name: str, matrices: int | None = None) -> Sums:
        """float32 [matrices, cols], the mean squared input of each column; raises ImatrixError without such an entry.

        `matrices`: as many as the weight has, where that differs from the entry's own shape.
        """
        if name not in self.sums:
            raise ImatrixError(self.path, name, expected="an entry", found="none")
        sums, counts = self.sums[name], self.counts[name].astype(np.float32)[:, None]
        unseen = sums if self.legacy else np.float32(1)
        found: Sums = np.where(counts > 0, sums / np.maximum(counts, 1), unseen)
        if matrices is None:
            return found
        if found.size % matrices:
            raise ImatrixError(self.path, name, expected=f"values for {matrices} matrices", found=found.size)
        return found.reshape(matrices, -1)

    def covers(self, tensor: gguf.TensorSpec) -> bool:
        """Whether a tensor has an entry, and of its size: an embedding's may differ, and is of no use then."""
        return tensor.name in self.sums and self.sums[tensor.name].size == tensor.matrices * tensor.cols

    def of(self, tensor: gguf.TensorSpec) -> Sums | None:
        """float32 [matrices, cols] for a tensor that is covered, else None."""
        return self.importance(tensor.name, tensor.matrices) if self.covers(tensor) else None


def read(path: str | Path) -> Imatrix:
    """A validated importance matrix, GGUF or legacy `.dat`; raises ImatrixError (GGUFError if the container is bad)."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImatrixError(path, "file", expected="a regular file", found="none")
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ImatrixError(path, "file", expected="a readable file", found=error.strerror) from error
    if magic != b"GGUF":
        return Imatrix(path=path, legacy=True, **read_legacy(path))
    with gguf.read(path) as file:
        return _from_gguf(file)


def _from_gguf(file: gguf.GGUF) -> Imatrix:
    kind = file.get("general.type", "imatrix")  # absent in the first files of this format
    if kind != "imatrix":
        raise ImatrixError(file.path, "general.type", expected="imatrix", found=kind, hint="This file is no imatrix")
    stems = sorted({_stem(file.path, name) for name in file.tensors}, key=str.encode)
    if not stems:
        raise ImatrixError(file.path, "entries", expected="at least one", found=0)
    entries = {stem: _entry(file, stem) for stem in stems}
    header = header_of(file, "imatrix")
    return Imatrix(
        sums={stem: sums for stem, (sums, _) in entries.items()},
        counts={stem: counts for stem, (_, counts) in entries.items()},
        datasets=header.datasets,
        chunk_count=header.chunk_count,
        chunk_size=header.chunk_size,
        path=file.path,
    )


def _stem(path: Path, name: str) -> str:
    for suffix in (SUMS, COUNTS):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    raise ImatrixError(path, f"tensor {name}", expected=f"a name that ends in {SUMS} or {COUNTS}", found=name)


def _entry(file: gguf.GGUF, stem: str) -> tuple[Sums, Counts]:
    sums, counts = _matrix(file, stem + SUMS), _matrix(file, stem + COUNTS)
    if sums.size % max(counts.size, 1) or not counts.size or not sums.size:
        expected = f"a count for each of the {sums.size:,} sums' matrices"
        raise ImatrixError(file.path, stem, expected=expected, found=f"{counts.size} counts")
    if counts.max() > _MOST_TOKENS:
        raise ImatrixError(file.path, stem + COUNTS, expected="at most 2^53 tokens", found=counts.max())
    rounded = np.floor(counts.astype(np.float64).reshape(-1) + 0.5).astype(np.int64)
    return sums.reshape(counts.size, -1), rounded


def _matrix(file: gguf.GGUF, name: str) -> Sums:
    tensor = file.tensors.get(name)
    if tensor is None or tensor.type != TYPES["F32"]:
        raise ImatrixError(file.path, f"tensor {name}", expected="F32", found=tensor.type.name if tensor else "none")
    values: Sums = file.data(name).reshape(-1).view(np.float32).copy()
    if not (np.isfinite(values).all() and (values >= 0).all()):
        odd = values[~(np.isfinite(values) & (values >= 0))][0]
        raise ImatrixError(file.path, f"tensor {name}", expected="finite values that are not negative", found=odd)
    return values


def write(imatrix: Imatrix, out: str | Path) -> Path:
    """Write in llama-imatrix's own order and shapes; raises OutputError, or ImatrixError for a legacy one."""
    if imatrix.legacy:
        raise ImatrixError(imatrix.path, "format", expected="GGUF", found=".dat", hint="Merge it alone to convert it")
    tensors: list[gguf.TensorSpec] = []
    data: dict[str, Sums] = {}
    for name in sorted(imatrix.sums, key=str.encode):
        pair = ((SUMS, imatrix.sums[name]), (COUNTS, imatrix.counts[name][:, None]))
        for suffix, values in pair:
            data[name + suffix] = np.ascontiguousarray(values, dtype="<f4")
            tensors.append(gguf.TensorSpec(name + suffix, _shape(values), TYPES["F32"]))
    with gguf.Writer(Path(out), _metadata(imatrix), tensors) as writer:
        for name, values in data.items():
            writer.write(name, 0, values.view(np.uint8))
    return Path(out)


def _shape(values: NDArray[Any]) -> tuple[int, ...]:
    """In GGUF's order, without the trailing 1 that ggml does not write."""
    matrices, cols = values.shape
    return (cols, matrices) if matrices > 1 else (cols,)


def _metadata(imatrix: Imatrix) -> gguf.Metadata:
    return {
        "general.type": gguf.Value.string("imatrix"),
        "imatrix.datasets": gguf.Value.array(gguf.ValueType.STRING, list(imatrix.datasets)),
        "imatrix.chunk_count": gguf.Value.u32(imatrix.chunk_count),
        "imatrix.chunk_size": gguf.Value.u32(imatrix.chunk_size),
    }


def merge(paths: Sequence[str | Path], out: str | Path, *, chunk_size: int | None = None) -> Path:
    """Add importance matrices up and write one; sums and counts add, datasets follow one another.

    A legacy file holds means of chunks: they count as chunks of `chunk_size` tokens, default that of the first GGUF
    file among the others, or 512. An entry that only some have is kept as it is: experts may have been of no use to
    a text. Raises ImatrixError where two have different layers, or different numbers of values for a weight: they are
    of different models.
    """
    found = [read(path) for path in paths]
    if not found:
        raise ImatrixError(None, "merge", expected="at least one imatrix", found=0)
    size = chunk_size or next((one.chunk_size for one in found if one.chunk_size), _CHUNK_SIZE)
    total = _raw(found[0], size)
    for one in found[1:]:
        total = _sum(total, _raw(one, size))
    return write(total, out)


def _raw(one: Imatrix, chunk_size: int) -> Imatrix:
    """With sums over tokens and chunks of `chunk_size` tokens."""
    sums, counts = one.sums, one.counts
    if one.legacy:
        sums = {name: values * np.float32(chunk_size) for name, values in sums.items()}
        counts = {name: values * chunk_size for name, values in counts.items()}
    return Imatrix(sums, counts, one.datasets, whole_chunks(counts, chunk_size), chunk_size, one.path)


def _sum(a: Imatrix, b: Imatrix) -> Imatrix:
    hint = f"It cannot be merged with {a.path}: they belong to different models"
    _check_layers(a, b, hint)
    sums, counts = {**a.sums, **b.sums}, {**a.counts, **b.counts}
    for name in a.sums.keys() & b.sums.keys():
        if a.sums[name].size != b.sums[name].size or not _share_counts(a.counts[name], b.counts[name]):
            expected, shape = a.sums[name].shape, b.sums[name].shape
            raise ImatrixError(b.path, name, expected=f"shape {expected}", found=f"shape {shape}", hint=hint)
        counts[name] = a.counts[name] + b.counts[name]  # one count stands for every matrix
        sums[name] = a.sums[name].reshape(len(counts[name]), -1) + b.sums[name].reshape(len(counts[name]), -1)
    return Imatrix(sums, counts, a.datasets + b.datasets, whole_chunks(counts, a.chunk_size), a.chunk_size, a.path)


def _check_layers(a: Imatrix, b: Imatrix, hint: str) -> None:
    expected, found = layers(a.names), layers(b.names)
    if expected != found:
        what = f"{len(found)}; blk.{min(expected ^ found)} is in only one of the two"
        raise ImatrixError(b.path, "layers", expected=f"the {len(expected)} of {a.path}", found=what, hint=hint)


def layers(names: Iterable[str]) -> set[int]:
    """The numbers of the layers that weights belong to."""
    return {int(found[1]) for name in names if (found := _LAYER.match(name))}


def whole_chunks(counts: Mapping[str, Counts], chunk_size: int) -> int:
    """The chunk count as llama-imatrix reckons it: whole chunks in the tokens that any matrix saw."""
    return max((int(tokens.max()) for tokens in counts.values()), default=0) // chunk_size


def _share_counts(a: Counts, b: Counts) -> bool:
    return len(a) == len(b) or 1 in (len(a), len(b))
