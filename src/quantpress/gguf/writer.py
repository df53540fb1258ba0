"""Writes a GGUF file, or its parts, in place: any rows of any tensor in any order, from any thread.

Since the layout is known before the first byte (see layout.py), the header is written at once and each tile goes to
where it belongs; nothing is collected in memory and nothing is copied at the end. Files have the temporary name
`.<name>.partial` until all are complete and on the disk; then they are renamed, the first part last because that is the
one that readers open. Whatever goes wrong before, Ctrl-C included, leaves neither name behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from quantpress.errors import DiskFullError, OutputError
from quantpress.files import output_errors
from quantpress.gguf.layout import TensorSpec, encode_header, layout
from quantpress.gguf.split import part_paths, split_plan
from quantpress.gguf.values import Metadata

__all__ = ["Writer", "folder_writer", "outline"]


class Writer:
    """`with Writer(path, metadata, tensors) as writer: writer.write(name, row, data)`, until every row is written.

    `paths` and `sizes` (bytes) are known from the start; more than one file is written if `split_bytes` asks for it, as
    `split_plan` says, which also raises. Entering raises DiskFullError if the disk has too little space for all the
    files, OutputError if they cannot be made; both may also come later. An existing file is replaced at the end.
    """

    def __init__(
        self, path: str | Path, metadata: Metadata, tensors: Iterable[TensorSpec], split_bytes: int | None = None
    ) -> None:
        self._parts = split_plan(metadata, tensors, split_bytes)
        self.paths = part_paths(Path(path), len(self._parts))
        self.sizes = tuple(part.layout.file_bytes for part in self._parts)
        self._specs = {spec.name: (no, spec) for no, part in enumerate(self._parts) for spec in part.tensors}
        self._rows_left = {name: spec.rows for name, (_, spec) in self._specs.items()}
        self._rows_written: dict[str, npt.NDArray[np.bool_]] = {}
        self._lock = threading.Lock()
        self._files: list[int] = []
        self._made: list[Path] = []

    def __enter__(self) -> Writer:
        try:
            self._create()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._publish()
        except BaseException:
            self._discard()
            raise

    def write(self, name: str, row: int, data: npt.NDArray[np.uint8]) -> None:
        """Write encoded rows, uint8 [n, row_bytes], as rows `row` … `row + n - 1` of a tensor.

        Raises ValueError for rows that are not in the tensor, of another size or already written; DiskFullError and
        OutputError if the file cannot take them.
        """
        if name not in self._specs or not self._files:
            raise ValueError(f"{self.paths[0]}: tensor {name!r} is not in this file, or the file is not open")
        part, spec = self._specs[name]
        rows = len(data)
        if data.dtype != np.uint8 or data.shape != (rows, spec.row_bytes) or not 0 <= row < row + rows <= spec.rows:
            found = f"{data.dtype} {data.shape} at row {row}"
            raise ValueError(f"tensor {name!r}: expected uint8 rows of [{spec.rows}, {spec.row_bytes}], found {found}")
        offset = self._parts[part].layout.offsets[name] + row * spec.row_bytes
        self._write_at(part, offset, np.ascontiguousarray(data).data.cast("B"))
        self._mark(spec, row, row + rows)

    def _mark(self, spec: TensorSpec, start: int, stop: int) -> None:
        """Remember that these rows are there; a byte a row, only while the tensor is unfinished."""
        with self._lock:
            written = self._rows_written.get(spec.name)
            if written is None:
                written = np.zeros(spec.rows, np.bool_)
            if written[start:stop].any() or not self._rows_left[spec.name]:
                raise ValueError(f"tensor {spec.name!r}: rows {start} to {stop - 1} are written twice")
            written[start:stop] = True
            self._rows_left[spec.name] -= stop - start
            self._rows_written[spec.name] = written
            if not self._rows_left[spec.name]:
                del self._rows_written[spec.name]

    def _create(self) -> None:
        """Make the temporary files in their full size, with the headers."""
        for path in self.paths:
            with self._os_errors(path):
                if path.is_dir():
                    raise OutputError(f"{path}: expected the name of a file, found a folder")
                temporary(path).unlink(missing_ok=True)  # of a run that was killed
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # never through somebody's link
                self._files.append(os.open(temporary(path), flags, 0o666))
                self._made.append(temporary(path))
        with self._os_errors(self.paths[0]):
            self._check_space()
        for no, part in enumerate(self._parts):
            with self._os_errors(self.paths[no]):
                os.ftruncate(self._files[no], self.sizes[no])  # what stays unwritten is the padding
            self._write_at(no, 0, memoryview(encode_header(part.metadata, part.tensors)))

    def _check_space(self) -> None:
        needed, free = sum(self.sizes), self._free()
        if needed > free:
            raise DiskFullError(self.paths[0], needed, free)

    def _free(self) -> int:
        """Bytes that the files may take: what is free and what they already hold."""
        held = sum(os.fstat(file).st_blocks * 512 for file in self._files)
        return shutil.disk_usage(self.paths[0].parent).free + held

    def _write_at(self, part: int, offset: int, data: memoryview) -> None:
        with self._os_errors(self.paths[part]):
            while data:
                count = os.pwrite(self._files[part], data, offset)
                data, offset = data[count:], offset + count

    def _publish(self) -> None:
        for name, rows in self._rows_left.items():
            if rows:
                found = f"{self._specs[name][1].rows - rows:,} written"
                raise OutputError(f"{self.paths[0]}: tensor {name}: expected {rows:,} more rows, found {found}")
        for path, file in zip(self.paths, self._files, strict=True):
            with self._os_errors(path):
                os.fsync(file)
        for path in reversed(self.paths):
            with self._os_errors(path):
                os.replace(temporary(path), path)
            self._made.append(path)
        with self._os_errors(self.paths[0]):
            _sync_folder(self.paths[0].parent)
            self._close()
        self._made.clear()  # from here on they are the user's

    def _close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def _discard(self) -> None:
        """Remove what this writer made; quietly, because an error is already on its way."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self._close()

    def _os_errors(self, path: Path) -> contextlib.AbstractContextManager[None]:
        """Turn the system's errors into ours."""
        return output_errors(path, sum(self.sizes), self._free)


def folder_writer(
    path: Path, metadata: Metadata, tensors: Iterable[TensorSpec], split_bytes: int | None = None
) -> Writer:
    """A Writer of the file or, if it would be larger, of parts in a folder of its name, as people publish them.

    The folder is the caller's to make.
    """
    tensors = tuple(tensors)
    writer = Writer(path, metadata, tensors, split_bytes)
    inside = path.with_suffix("") / path.name
    return writer if len(writer.paths) == 1 else Writer(inside, metadata, tensors, split_bytes)


def outline(path: Path, metadata: Metadata, tensors: Iterable[TensorSpec]) -> None:
    """Write the header of a single file, with a hole in place of the data: to plan with, and its size.

    Raises GGUFError if the format cannot hold it, OutputError, DiskFullError.
    """
    tensors = tuple(tensors)
    header, size = encode_header(metadata, tensors), layout(metadata, tensors).file_bytes
    with output_errors(path, size), path.open("wb") as file:
        file.write(header)
        os.truncate(file.fileno(), size)


def temporary(path: Path) -> Path:
    """The name of a file that is not complete."""
    return path.with_name(f".{path.name}.partial")


def _sync_folder(path: Path) -> None:
    """Make the renames last through a power cut, where the file system can."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(folder)
