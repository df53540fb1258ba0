"""Starts the child, asks it, and turns every way in which it can die into one clear EngineError.

The child is a plain Python command and not a multiprocessing process: a spawned one would import the caller's
`__main__` again. It has its own session, so that Ctrl-C reaches only the parent, which ends it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

from quantpress.children import python_command
from quantpress.engine.messages import Settings, receive, send
from quantpress.errors import CrashError, EngineError, QuantpressError

__all__ = ["Child", "ending", "tail"]

_COMMAND = python_command("from quantpress.engine.worker import main; main()")
_LOG_LINES = 12
_LAST_SECONDS = 10.0  # of a child that has closed its pipe: writing a core file takes some


class Child:
    """The engine's process. `ask` is the only way to talk to it, one operation at a time.

    It outlives an operation that it refuses, and answers the next one. It is gone after `stop`, after its own death,
    and once an operation is abandoned before its end.
    """

    def __init__(self, settings: Settings) -> None:
        self.model = settings.model
        self.busy = False
        try:
            with ExitStack() as undo:
                self.log = undo.enter_context(tempfile.TemporaryFile(prefix="quantpress-engine-"))
                self.process = _start(self.log, spinning=settings.spinning)
                undo.callback(self.stop)
                self._send(settings)
                undo.pop_all()
        except OSError as error:
            raise EngineError(f"{self.model}: llama.cpp's process cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        """Run an operation of `worker.OPS`, yield what it yields; raises EngineError or what the operation raised."""
        if self.busy:
            raise EngineError(f"{self.model}: an operation is under way: take all its items before {op}")
        self.busy, finished = True, False
        try:
            self._send((op, arguments))
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
            self.busy = False
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
        try:
            send(self._open(self.process.stdin), message)
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, value = receive(self._open(self.process.stdout))
        except EOFError:
            raise self._death() from None
        return kind, value

    def _open(self, stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None or stream.closed:
            raise EngineError(f"{self.model}: the engine was stopped")
        return stream

    def _with_log(self, error: QuantpressError) -> QuantpressError:
        """llama.cpp's refusals need its own words; other errors say all themselves."""
        return EngineError(f"{self.model}: {error}{self._tail()}") if isinstance(error, EngineError) else error

    def _death(self) -> CrashError:
        try:
            how = ending(self.process.wait(_LAST_SECONDS))
        except subprocess.TimeoutExpired:
            self.process.kill()
            how = "closed its pipe without an answer"
        return CrashError(f"{self.model}: llama.cpp's process {how}{self._tail()}")

    def _tail(self) -> str:
        self.log.seek(0)
        return tail(self.log.read().decode(errors="replace"))


def _start(log: IO[bytes], *, spinning: bool) -> subprocess.Popen[bytes]:
    # Spinning OpenMP threads make small models tens of times slower wherever another process wants a core.
    environment = dict(os.environ) if spinning else {"OMP_WAIT_POLICY": "passive", **os.environ}
    pipe = subprocess.PIPE
    return subprocess.Popen(_COMMAND, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True, env=environment)


def tail(log: str) -> str:
    """The last lines of a log, to be put after the message of an error; nothing of an empty one."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip(" .")]
    return "\nlast lines of its log:\n  " + "\n  ".join(lines[-_LOG_LINES:]) if lines else ""


def ending(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
