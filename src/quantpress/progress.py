"""How long work says how far it is: silent in the library, a bar in a terminal, plain lines elsewhere.

Every long function takes `progress: Progress = SILENT` and writes
`with progress.task("imatrix", total=64, unit="chunks") as advance: … advance(1)`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["SILENT", "BarProgress", "LineProgress", "Progress", "for_terminal"]

Advance = Callable[[int], None]


class Progress:
    """Says nothing; the base of the others."""

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Advance]:
        """A piece of work of `total` units; the value of the `with` takes the units done since its last call."""
        del label, total, unit
        yield lambda amount: None

    def note(self, text: str) -> None:
        """One line that the user should read."""


SILENT = Progress()


class LineProgress(Progress):
    """A line at the start, at most one every `interval` seconds, and one at the end: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.interval = interval

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Advance]:
        """See Progress.task."""
        start = last = time.monotonic()
        done = 0

        def advance(amount: int) -> None:
            nonlocal done, last
            done += amount
            now = time.monotonic()
            if now - last >= self.interval and done < total:
                last = now
                left = (now - start) * (total - done) / done if done else 0.0
                self.note(f"{label}: {done:,} of {total:,} {unit}, {left:.0f} s left")

        self.note(f"{label}: {total:,} {unit}".rstrip())
        yield advance
        self.note(f"{label}: done in {time.monotonic() - start:.1f} s")

    def note(self, text: str) -> None:
        """See Progress.note."""
        print(text, file=self.stream, flush=True)


class BarProgress(Progress):
    """A rich bar with the time left; those of tasks at the same time, from any threads, stand below one another."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self._lock = threading.Lock()
        self._bars = self._new_bars()
        self._open = 0

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Advance]:
        """See Progress.task."""
        with self._lock:
            if not self._open:
                self._bars = self._new_bars()
                self._bars.start()
            self._open += 1
            bars, task = self._bars, self._bars.add_task(label, total=total, unit=unit)
        try:
            yield lambda amount: bars.advance(task, amount)
        finally:
            self._end(bars, task)

    def _end(self, bars: Bars, task: TaskID) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                bars.remove_task(task)  # or it would stay above those that go on
            else:
                bars.stop()

    def _new_bars(self) -> Bars:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self.console,
        )

    def note(self, text: str) -> None:
        """See Progress.note."""
        self.console.print(text, highlight=False, markup=False)


def for_terminal(*, quiet: bool = False) -> Progress:
    """The progress that suits standard error: none when quiet, bars in a terminal, lines elsewhere."""
    if quiet:
        return SILENT
    return BarProgress() if sys.stderr.isatty() else LineProgress()
