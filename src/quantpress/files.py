"""Files written whole or not at all, folders, hashes; and the system's errors as ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import DiskFullError, InputError, OutputError, PlanError

__all__ = ["digest", "file_digest", "make_folder", "output_errors", "write_bytes", "write_json", "write_text"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; raises InputError if it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    except OSError as error:
        raise InputError(path, "file", expected="a readable one", found=error.strerror) from error
    return found.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_place(outputs: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raise PlanError where a file of ours would replace one of the user's, which it is made from."""
    given = {path.resolve() for path in sources}
    for path in outputs:
        if path.resolve() in given:
            hint = "Choose another place with --out"
            raise PlanError(path, "output", expected="another file than the sources", found="a source", hint=hint)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def output_errors(path: Path, needed: int, free: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the system's errors in writing `needed` bytes to `path` into DiskFullError and OutputError.

    `free` tells the bytes that there is room for; default what the disk has left.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            left = free() if free else shutil.disk_usage(path.parent).free
            raise DiskFullError(path, needed, left) from error
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all; raises OutputError, DiskFullError."""
    temporary = path.with_name(f".{path.name}.partial")
    with output_errors(path, len(data)):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write a small file of text as UTF-8, whole or not at all; raises OutputError, DiskFullError."""
    write_bytes(path, text.encode(errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file whole or not at all; raises OutputError, DiskFullError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
