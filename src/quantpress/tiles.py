"""The weights of a model in pieces of bounded size: where a tensor is cut, how a piece is read, who works on it.

A piece is whole rows of one matrix. It is read, not mapped: the pages of a map count as this process's memory until the
system wants them back, and a disk that fails or a file that shrinks would end the process (SIGBUS) instead of raising.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import GGUFError
from quantpress.gguf import GGUF, Tensor

__all__ = ["RowReader", "cuts", "in_threads"]

TILE = 1 << 19  # weights times the types that they are encoded to: 2 MiB in float32, and less when encoded
Result = TypeVar("Result")


def cuts(tensor: Tensor, types: int = 1) -> Iterator[tuple[int, int]]:
    """Consecutive row ranges [start, stop), none of them in two matrices.

    The more types they are to be encoded to, the smaller: a range takes about the same memory and time. At least a row.
    """
    matrix = tensor.rows // tensor.matrices
    step = max(1, TILE // types // tensor.cols)
    for first in range(0, tensor.rows, matrix):
        for start in range(first, first + matrix, step):
            yield start, min(start + step, first + matrix)


class RowReader:
    """`with RowReader(model) as reader: reader.read(tensor, start, stop)`, from any thread."""

    def __init__(self, source: GGUF) -> None:
        self._source = source
        self._files: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> RowReader:
        with ExitStack() as stack:
            for path in self._source.paths:
                try:
                    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise GGUFError(path, "file", expected="a readable file", found=error.strerror) from error
                stack.callback(os.close, file)
                self._files.append(file)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files = []
        self._stack.close()

    def read(self, tensor: Tensor, start: int, stop: int) -> NDArray[np.uint8]:
        """The encoded rows, uint8 [stop - start, row_bytes]; raises GGUFError if the file cannot give them."""
        data = np.empty((stop - start, tensor.row_bytes), np.uint8)
        left, offset = data.data.cast("B"), tensor.offset + start * tensor.row_bytes
        while left:
            count = self._read_some(tensor, left, offset)
            left, offset = left[count:], offset + count
        return data

    def _read_some(self, tensor: Tensor, buffer: memoryview, offset: int) -> int:
        path = self._source.paths[tensor.part]
        try:
            count = os.preadv(self._files[tensor.part], [buffer], offset)
        except OSError as error:
            raise GGUFError(path, f"tensor {tensor.name}", expected="a readable disk", found=error.strerror) from error
        if not count:
            hint = "Something changed it meanwhile"
            raise GGUFError(
                path, f"tensor {tensor.name}", expected=f"{len(buffer)} more bytes", found="the end", hint=hint
            )
        return count


def in_threads(
    jobs: Iterable[Callable[[], Result]], threads: int, stop: Callable[[], None] = lambda: None
) -> Generator[Result, None, None]:
    """Run jobs in threads and yield their results as they come; jobs are asked for only a little ahead.

    The first exception of a job ends it; so does closing the iterator. Either waits for the jobs under way, no others.
    At its end, however it comes, `stop` ends what a job may be waiting for.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tile")
    pending: set[Future[Result]] = set()
    try:
        for job in jobs:
            pending.add(pool.submit(job))
            if len(pending) >= 2 * threads:
                yield from _taken(pending)
        while pending:
            yield from _taken(pending)
    finally:
        stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(pending: set[Future[Result]]) -> Iterator[Result]:
    """Take out what is done, one at least, for its results; an exception comes last, lest it take a result with it."""
    done = wait(pending, return_when=FIRST_COMPLETED).done
    pending -= done
    yield from (future.result() for future in sorted(done, key=lambda future: future.exception() is not None))
