"""Starts the child, asks it, and turns every way in which it can die into one clear EngineError.

The child is a plain `python -m quantpress.engine.worker` and not a multiprocessing process: a spawned one would import
the caller's `__main__` again. It has its own session, so that Ctrl-C reaches only the parent, which ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from quantpress.engine.messages import Settings, receive, send
from quantpress.errors import EngineError, QuantpressError

__all__ = ["Child"]

_LOG_LINES = 12


class Child:
    """The engine's process. `ask` is the only way to talk to it; after an error it is gone."""

    def __init__(self, settings: Settings) -> None:
        self.model = settings.model
        self.log = tempfile.TemporaryFile(prefix="quantpress-engine-")  # noqa: SIM115  (closed in stop)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quantpress.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
            # Spinning OpenMP threads make small models tens of times slower wherever another process wants a core; and
            # `-m` must not look for modules in the current folder.
            env={"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONSAFEPATH": "1"},
        )
        self._send(settings)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        """Run an operation of `worker.OPS`, yield what it yields; raises EngineError or what the operation raised."""
        self._send((op, arguments))
        finished = False
        try:
            while True:
                kind, value = self._receive()
                if kind == "item":
                    yield value
                    continue
                finished = True
                if kind == "done":
                    return
                raise self._with_log(value)
        finally:
            if not finished:  # an abandoned operation cannot be resumed
                self.stop()

    def stop(self) -> None:
        """End the child, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # unsent bytes for a dead child
        self.log.close()

    def _send(self, message: Any) -> None:
        if self.log.closed:
            raise EngineError(f"{self.model}: the engine was stopped")
        assert self.process.stdin is not None  # noqa: S101  (for the type checker: we asked for a pipe)
        try:
            send(self.process.stdin, message)
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self) -> tuple[str, Any]:
        assert self.process.stdout is not None  # noqa: S101
        try:
            kind, value = receive(self.process.stdout)
        except EOFError:
            raise self._death() from None
        return kind, value

    def _with_log(self, error: QuantpressError) -> QuantpressError:
        """llama.cpp's refusals need its own words; other errors say all themselves."""
        return EngineError(f"{self.model}: {error}{self._tail()}") if isinstance(error, EngineError) else error

    def _death(self) -> EngineError:
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
        else:
            how = f"exited with status {code}"
        return EngineError(f"{self.model}: llama.cpp's process {how}{self._tail()}")

    def _tail(self) -> str:
        self.log.seek(0)
        lines = [line.rstrip() for line in self.log.read().decode(errors="replace").splitlines() if line.strip(" .")]
        return "\nlast lines of its log:\n  " + "\n  ".join(lines[-_LOG_LINES:]) if lines else ""
