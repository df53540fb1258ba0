"""A model's files in other parts: the same tensors, copied as bytes, so that what was measured of them stays true.

    parts → other parts, complete and hashed → release.json → the earlier files go

Nothing is decoded, and memory holds a tile. The obvious alternative, to quantize again with another limit, would write
the same bytes after hours, and measure them for more. release.json keeps the hashes that the files had before: who
knows a model by them, a row of results.json or what was made from it, knows it by its parts too.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Sequence
from pathlib import Path

from quantpress import gguf
from quantpress.files import make_folder
from quantpress.gguf import GGUF, Writer, folder_writer
from quantpress.ledger import Ledger
from quantpress.names import stem
from quantpress.progress import Progress
from quantpress.sizes import human_size
from quantpress.tiles import RowReader, cuts

__all__ = ["clear", "in_parts", "whole", "writer_of"]


def in_parts(files: Sequence[Path], split_bytes: int, ledger: Ledger, progress: Progress) -> tuple[Path, ...]:
    """The files of a kept model, none larger than so many bytes and no more than that takes: as they are, or anew.

    They are what `convert` and `quantize` would have written. While it works, the disk holds the model twice. Raises
    DiskFullError before anything is written, PlanError for a tensor that is larger, GGUFError, OutputError.
    """
    with gguf.read(files[0]) as model:
        writer = writer_of(model, split_bytes)
        if (writer.paths, writer.sizes) != (tuple(files), tuple(map(ledger.bytes, files))):
            _note(whole(files[0]), writer, split_bytes, progress)
            _copy(model, writer, progress)
            ledger.replace(files, writer.paths)
    clear(writer.paths, ledger)
    return writer.paths


def writer_of(model: GGUF, split_bytes: int) -> Writer:
    """What would write a model in parts of at most so many bytes; PlanError for a tensor that is larger."""
    return folder_writer(whole(model.path), model.metadata, model.tensors.values(), split_bytes)


def whole(first: Path) -> Path:
    """Where a model is, or would be, in one file, given that or its first part, which is in a folder of its name."""
    return first if stem(first) == first.stem else first.parent.with_name(f"{stem(first)}.gguf")


def _note(path: Path, writer: Writer, split_bytes: int, progress: Progress) -> None:
    parts = f"{len(writer.paths)} of at most {human_size(split_bytes)}" if len(writer.paths) > 1 else "one"
    needed, free = human_size(sum(writer.sizes)), human_size(shutil.disk_usage(path.parent).free)
    progress.note(f"{path.name}: copied into {parts}; {needed} of disk are needed for it, {free} are free")


def _copy(model: GGUF, writer: Writer, progress: Progress) -> None:
    make_folder(writer.paths[0].parent)
    size = sum(tensor.nbytes for tensor in model.tensors.values())
    with (
        RowReader(model) as reader,
        progress.task(f"split {stem(writer.paths[0])}", size, "bytes") as advance,
        writer,
    ):
        for tensor in model.tensors.values():
            for start, stop in cuts(tensor):
                writer.write(tensor.name, start, reader.read(tensor, start, stop))
                advance((stop - start) * tensor.row_bytes)


def clear(parts: Sequence[Path], ledger: Ledger) -> None:
    """Remove the files that a model had before, which an interrupted run may have left."""
    path = whole(parts[0])
    folder, entered = path.with_suffix(""), ledger.files_of(path)
    for file in (path, *folder.glob(f"{glob.escape(path.stem)}-*-of-*.gguf")) if ledger.earlier(parts[0]) else ():
        if file not in entered:
            file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there are parts in it, or there is none
        folder.rmdir()
