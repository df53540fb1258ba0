"""A large file from the Hub, by ranges: its first bytes, or all of it, going on where an earlier run was cut off.

huggingface_hub resumes a download only while its process lives, so the loop that writes the bytes is here; requests,
retries and the login are the library's. A file grows under its blob's name with `.quantpress.incomplete` after it; when
it is whole and has the hash that the repository says, it takes the blob's name, where the library finds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from quantpress.errors import HubError
from quantpress.progress import Progress

__all__ = ["CLIENT_ERROR", "Ahead", "Head", "download", "partial_of"]

CLIENT_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the library's HTTP client raises where there is no answer; it has changed that client before."""

_HEAD = 1 << 17  # holds the header of most shards
_ATTEMPTS = 5  # in a row that bring nothing, before the connection counts as lost
_WAIT = 0.5  # seconds before the first of them, twice as many before each further one
_PARTIAL = 206
_HASHED = 1 << 22

Stop = threading.Event


class Head:
    """`read(count)` gives the next bytes of a file on the Hub, from its start; few requests, of small ranges."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._data = b""
        self._position = 0

    def read(self, count: int) -> bytes:
        """At most `count` bytes, fewer at the end of the file."""
        self._position += count
        wanted = min(self._size, max(self._position, _HEAD))
        if self._position > len(self._data) and wanted > len(self._data):
            self._data += b"".join(_body(self._url, len(self._data), wanted, Stop()))
        return self._data[self._position - count : self._position]


def partial_of(blob: Path) -> Path:
    """Where a file grows that is not whole yet."""
    return blob.with_name(f"{blob.name}.quantpress.incomplete")


def download(url: str, blob: Path, size: int, progress: Progress, stop: Stop) -> bool:
    """Bring a file of `size` bytes to `blob`, whose name is its SHA-256; False where the bytes have another.

    The bytes of an earlier run are kept, those that have the wrong hash are not. Raises HubError when `stop` is set,
    the library's errors, and OSError where they cannot be written.
    """
    partial = partial_of(blob)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a+b") as file:
        _lock(file, blob, progress)
        if blob.exists():  # another run was at it
            partial.unlink(missing_ok=True)
            return True
        found = _append(url, file, size, progress, stop)
        if found != blob.name:
            partial.unlink()
            return False
        os.fsync(file.fileno())
        partial.replace(blob)
    return True


def _lock(file: BinaryIO, blob: Path, progress: Progress) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.note(f"another run is fetching {blob.name[:12]}…: waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)


def _append(url: str, file: BinaryIO, size: int, progress: Progress, stop: Stop) -> str:
    """Fetch what a file lacks; returns the hash of all of it."""
    found = hashlib.sha256()
    file.seek(0)
    with progress.task(f"fetch {url.rpartition('/')[2]}", size, "bytes") as advance:
        while block := file.read(_HASHED):
            found.update(block)
            advance(len(block))
        for block in _body(url, file.tell(), size, stop):
            file.write(block)
            found.update(block)
            advance(len(block))
    file.flush()
    return found.hexdigest()


def _body(url: str, position: int, size: int, stop: Stop) -> Iterator[bytes]:
    """The bytes [position, size) as they come; a connection that is cut is taken up again."""
    attempts = 0
    while position < size:
        try:
            for block in _range(url, position, size):
                if stop.is_set():
                    raise HubError("fetching was stopped")
                yield block
                position, attempts = position + len(block), 0
        except HfHubHTTPError:
            raise
        except CLIENT_ERROR:
            attempts += 1
            if attempts > _ATTEMPTS or stop.wait(_WAIT * 2 ** (attempts - 1)):
                raise


def _range(url: str, start: int, stop: int) -> Iterator[bytes]:
    """What one answer brings of [start, stop)."""
    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    # without its retries: they would take an error in the body, which is ours to handle, for one of the request
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with http_stream_backoff("GET", url, headers=headers, timeout=timeout, retry_on_exceptions=()) as response:
        hf_raise_for_status(response)
        position = start if response.status_code == _PARTIAL else 0  # else it sends the file from its beginning
        for block in response.iter_bytes():
            if part := block[max(0, start - position) : max(0, stop - position)]:
                yield part
            position += len(block)
            if position >= stop:
                return


class Ahead:
    """Fetches files in a thread: the one that somebody waits for, and then the one after it in the list."""

    def __init__(self, fetch: Callable[[str, Stop], None], names: Sequence[str]) -> None:
        self._fetch, self._names = fetch, names
        self._lock = threading.Lock()
        self._files: dict[str, Future[None]] = {}
        self._asked: set[str] = set()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stop = Stop()
        self._thread: threading.Thread | None = None

    def wait_for(self, name: str) -> None:
        """Return when the file is there; raises what ended the fetching, HubError if that was `close`."""
        if name not in self._asked:
            with self._lock:
                self._ask(name)
        self._files[name].result()

    def close(self) -> None:
        """Stop fetching: what has come is kept, and who waits gets a HubError."""
        self._end(HubError("fetching was stopped"))
        if self._thread is not None:
            self._thread.join(2)  # a thread in a stalled connection ends later, or with the process

    def _ask(self, name: str) -> None:
        first = self._names.index(name)
        for wanted in self._names[first : first + 2]:
            if wanted not in self._files:
                self._files[wanted] = Future()
                self._queue.put(wanted)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
            self._thread.start()
        self._asked.add(name)

    def _run(self) -> None:
        while (name := self._queue.get()) is not None and not self._stop.is_set():
            try:
                self._fetch(name, self._stop)
            except BaseException as error:  # it is raised where a file is waited for
                return self._end(error)
            with self._lock:
                if not self._stop.is_set():
                    self._files[name].set_result(None)
        return None

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._stop.set()
            self._queue.put(None)
            for name in self._names:
                file = self._files.setdefault(name, Future())
                if not file.done():
                    file.set_exception(error)
            self._asked.update(self._names)  # last: who finds a name there takes its file without the lock
