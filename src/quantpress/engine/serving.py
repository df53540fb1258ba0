"""The parent's side of a server: starts the child of `engine.server`, waits until it answers, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.client import HTTPException
from typing import IO

from quantpress.children import python_command
from quantpress.engine.server import GRACE, ServerSettings
from quantpress.engine.supervisor import ending, tail
from quantpress.errors import EngineError

__all__ = ["ServerProcess"]

_COMMAND = python_command("from quantpress.engine.server import main; main()")
_POLL = 0.1  # seconds
_LOADING = 503  # llama-server's status until it can answer


class ServerProcess:
    """A server that has written a token. It is gone after `close`, after its own death and with this process.

    `url` is that of its OpenAI interface. Raises EngineError, with the last lines of its log, if it does not start.
    """

    def __init__(self, settings: ServerSettings, url: str) -> None:
        self._settings = settings
        self._stopping = False
        with ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile(prefix="quantpress-server-"))
            try:
                self._process = _start(self._log)
            except OSError as error:
                raise EngineError(f"{settings.file}: the server's process cannot be started: {error}") from error
            undo.callback(self._end)
            self._tell(settings.to_line())
            self._await_token(f"{url}/completions")
            undo.pop_all()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def stop(self) -> None:
        """Tell the server to finish, which takes it seconds at most; told again, it is ended. Returns at once."""
        if self._stopping:
            self._kill()
        self._stopping = True
        self._hang_up()

    def wait(self) -> None:
        """Return when the server has been stopped; raises EngineError if it ends by itself."""
        while self._process.poll() is None:  # of two signals at once another thread may take both, and end no wait
            time.sleep(_POLL)
        if not self._stopping:
            raise self._death()

    def close(self) -> None:
        """Stop it, and return when it is gone and its port is free."""
        self._stopping = True
        self._hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE + 1)
        self._end()
        self._log.close()

    def _end(self) -> None:
        """End whatever is left of it, a program that it has started included."""
        self._kill()
        self._process.wait()
        self._hang_up()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _hang_up(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _tell(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead, and the next to look finds out
                self._process.stdin.write(line)
                self._process.stdin.flush()

    def _await_token(self, url: str) -> None:
        """Return when it has completed a text: loading a large model may take minutes."""
        headers = {"Content-Type": "application/json"}
        if self._settings.api_key is not None:
            headers["Authorization"] = f"Bearer {self._settings.api_key}"
        body = json.dumps({"model": self._settings.name, "prompt": "a", "max_tokens": 1}).encode()
        request = urllib.request.Request(url, body, headers)  # noqa: S310  (ours)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while self._process.poll() is None:
            try:
                direct.open(request).close()
                return
            except urllib.error.HTTPError as error:
                if error.code != _LOADING:
                    found = error.read().decode(errors="replace")
                    raise EngineError(f"{self._settings.file}: the server cannot complete a text: {found}") from error
            except (OSError, HTTPException):
                pass  # not listening yet, or dying
            time.sleep(_POLL)
        raise self._death()

    def _death(self) -> EngineError:
        code = self._process.wait()
        self._log.seek(0)
        log = tail(self._log.read().decode(errors="replace"))
        hint = ""
        if code == -signal.SIGSEGV and self._settings.repack:
            hint = ". Repacked weights may be the cause, on a virtual machine above all: try --no-repack"
        return EngineError(f"{self._settings.file}: the server {ending(code)}{hint}{log}")


def _start(log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A session of its own and OpenMP: see engine.supervisor.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    return subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environment
    )
