"""A model as it lies on disk: metadata and mapped tensors of one file or of all the parts of a split one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from quantpress.errors import GGUFError
from quantpress.gguf.layout import check_names
from quantpress.gguf.parser import ParsedFile, Tensor, parse
from quantpress.gguf.split import SPLIT_COUNT, SPLIT_KEYS, SPLIT_NO, SPLIT_TENSORS, part_paths
from quantpress.gguf.values import Metadata, ValueType

__all__ = ["GGUF", "joined", "read"]


class GGUF:
    """A checked, read-only model; made by `read`.

    `metadata` is that of the first file without the split keys, which are in `split`; `tensors` are in the order of the
    files. Metadata stay usable after `close`, tensor data do not.
    """

    def __init__(self, files: list[ParsedFile]) -> None:
        first = files[0]
        self.path: Path = first.path
        self.paths: tuple[Path, ...] = tuple(file.path for file in files)
        self.version: int = first.version
        self.alignment: int = first.alignment
        self.metadata: Metadata = {key: value for key, value in first.metadata.items() if key not in SPLIT_KEYS}
        self.split: Metadata = {key: value for key, value in first.metadata.items() if key in SPLIT_KEYS}
        self.tensors: dict[str, Tensor] = {tensor.name: tensor for file in files for tensor in file.tensors}
        self._data = [file.data for file in files]

    def get(self, key: str, default: Any = None) -> Any:
        """The plain value of a key: int, float, bool, str, numpy array or list of str; `default` without the key."""
        value = self.metadata.get(key)
        return default if value is None else value.value

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The encoded rows of a tensor, uint8 [rows, row_bytes]: a read-only view of the mapped file.

        Raises KeyError for an unknown name, ValueError after `close`.
        """
        if not self._data:
            raise ValueError(f"{self.path} is closed")
        tensor = self.tensors[name]
        flat = np.frombuffer(self._data[tensor.part], np.uint8, tensor.nbytes, tensor.offset)
        return flat.reshape(tensor.rows, tensor.row_bytes)

    def close(self) -> None:
        """Let go of the files; they are unmapped with the last view of `data`."""
        self._data = []

    def __enter__(self) -> GGUF:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: str | Path) -> GGUF:
    """Open a model; of a split one give the first part, the others are found by their names.

    Raises GGUFError for a file that is unreadable, malformed or hostile, and for parts that are missing or disagree.
    """
    return joined(Path(path), parse, Path.exists)


def joined(path: Path, parse: Callable[[Path, int], ParsedFile], exists: Callable[[Path], bool]) -> GGUF:
    """The same of files that may be elsewhere: `parse(path, part)` reads one, `exists(path)` tells whether it is there.

    Raises what they raise, and GGUFError for parts that are missing or disagree.
    """
    first = parse(path, 0)
    count = _split_value(first, SPLIT_COUNT, ValueType.UINT16) if SPLIT_COUNT in first.metadata else 1
    if count <= 1:  # gguf-split --merge leaves a 0
        return GGUF([first])
    paths = _part_paths(first, count, exists)
    files = [first, *(parse(part, no) for no, part in enumerate(paths[1:], 1))]
    _check_parts(files)
    return GGUF(files)


def _split_value(file: ParsedFile, key: str, kind: ValueType) -> int:
    value = file.metadata.get(key)
    if value is None or value.type is not kind:
        found = "no such key" if value is None else value.type.name
        raise GGUFError(file.path, key, expected=kind.name, found=found)
    number: int = value.value
    return number


def _part_paths(first: ParsedFile, count: int, exists: Callable[[Path], bool]) -> tuple[Path, ...]:
    """The names of all the parts; the first must have its own."""
    number = _split_value(first, SPLIT_NO, ValueType.UINT16)
    if number != 0:
        raise GGUFError(first.path, SPLIT_NO, expected=0, found=number, hint="Give the first part of a split model")
    suffix = f"-00001-of-{count:05d}.gguf"
    prefix = first.path.name.removesuffix(suffix)
    if prefix in ("", first.path.name):
        raise GGUFError(first.path, "file name", expected=f"one that ends in {suffix}", found=first.path.name)
    paths = part_paths(first.path.with_name(f"{prefix}.gguf"), count)
    for no, path in enumerate(paths, 1):
        if not exists(path):
            raise GGUFError(path, f"part {no} of {count}", expected="a file", found="none", hint="Download all parts")
    return paths


def _check_parts(files: list[ParsedFile]) -> None:
    """Raise GGUFError unless the parts say that they belong together and have all the tensors, each once."""
    total = _split_value(files[0], SPLIT_TENSORS, ValueType.INT32)
    for no, file in enumerate(files):
        wanted = ((SPLIT_NO, ValueType.UINT16, no), (SPLIT_COUNT, ValueType.UINT16, len(files)))
        for key, kind, expected in (*wanted, (SPLIT_TENSORS, ValueType.INT32, total)):
            found = _split_value(file, key, kind)
            if found != expected:
                raise GGUFError(file.path, key, expected=expected, found=found, hint="This part is of another model")
    tensors = [tensor for file in files for tensor in file.tensors]
    check_names(files[0].path, tensors)
    if len(tensors) != total:
        raise GGUFError(files[0].path, SPLIT_TENSORS, expected=f"{len(tensors)}, as in the parts", found=total)
