"""As much of the Hugging Face Hub as its library asks for: one model of several revisions, from folders.

Small files are git's; the weights are LFS files, which live on another host (here: another name of this one) that a
redirect leads to. Every answer is logged with the bytes of its body, and can be cut off or refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

import quantpress.download

LFS = (".safetensors", ".bin", ".gguf", ".png", "tokenizer.model")


@dataclass
class Answer:
    """What was asked for, and what was sent."""

    method: str
    file: str
    range: str | None
    login: bool
    body: int = 0


@dataclass
class Hub:
    """`revisions`: name of a branch → folder; the commit is made of the folder's content at the start."""

    id: str
    revisions: dict[str, Path]
    answers: list[Answer] = field(default_factory=list)
    refusal: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file → bytes after which its bodies over 64 kB are cut
    ranges: bool = True
    damaged: bool = False
    private: bool = False
    stalls: bool = False  # bodies over 128 kB of shards stop in the middle, for as long as this lasts
    port: int = 0

    def __post_init__(self) -> None:
        self.commits = {name: self._commit(folder) for name, folder in self.revisions.items()}

    @staticmethod
    def _commit(folder: Path) -> str:
        found = hashlib.sha1(usedforsecurity=False)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            found.update(file.read_bytes())
        return found.hexdigest()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def folder(self, revision: str) -> tuple[str, Path] | None:
        """The commit that a revision stands for, and its folder."""
        for name, commit in self.commits.items():
            if revision in (name, commit):
                return commit, self.revisions[name]
        return None

    def sent(self, suffix: str = ".safetensors") -> int:
        """The bytes of the bodies of such files."""
        return sum(answer.body for answer in self.answers if answer.file.endswith(suffix))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_hash(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms for the acknowledgement of its headers
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # of who was killed
            super().handle()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        name = re.escape(self.hub.id)
        self.entry = Answer(self.command, path, self.headers.get("Range"), "Authorization" in self.headers)
        self.hub.answers.append(self.entry)
        if found := re.fullmatch(r"/cdn/([0-9a-f]+)/(.*)", path):
            self._body(self.hub.folder(found[1])[1] / found[2])
        elif self.hub.refusal:
            self._end(self.hub.refusal[0], {"X-Error-Code": self.hub.refusal[1]})
        elif found := re.fullmatch(rf"/api/models/{name}(?:/revision/(.*))?", path):
            self._list(found[1] or "main")
        elif found := re.fullmatch(rf"/{name}/resolve/([^/]*)/(.*)", path):
            self._resolve(found[1], found[2])
        else:
            self._end(404, {"X-Error-Code": "RepoNotFound"})

    def _list(self, revision: str) -> None:
        if (found := self.hub.folder(revision)) is None:
            return self._end(404, {"X-Error-Code": "RevisionNotFound"})
        commit, folder = found
        siblings = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = file.stat().st_size
            lfs = {"size": size, "sha256": sha256(file), "pointerSize": 1} if file.name.endswith(LFS) else None
            name = file.relative_to(folder).as_posix()
            siblings.append(
                {"rfilename": name, "size": size, "blobId": git_hash(file), **({"lfs": lfs} if lfs else {})}
            )
        found = {"id": self.hub.id, "sha": commit, "private": self.hub.private, "siblings": siblings}
        return self._end(200, {}, json.dumps(found).encode())

    def _resolve(self, revision: str, name: str) -> None:
        if (found := self.hub.folder(revision)) is None:
            return self._end(404, {"X-Error-Code": "RevisionNotFound"})
        commit, folder = found
        about = {"X-Repo-Commit": commit}
        if not (folder / name).is_file():
            return self._end(404, {**about, "X-Error-Code": "EntryNotFound"})
        if not name.endswith(LFS):
            return self._body(folder / name, {**about, "ETag": f'"{sha256(folder / name)[:40]}"'})
        about |= {"X-Linked-Etag": f'"{sha256(folder / name)}"', "X-Linked-Size": str((folder / name).stat().st_size)}
        return self._end(302, {**about, "Location": f"http://localhost:{self.hub.port}/cdn/{commit}/{name}"})

    def _body(self, file: Path, headers: dict[str, str] | None = None) -> None:
        data, status, headers = file.read_bytes(), 200, headers or {}
        if self.hub.damaged and file.name.endswith(LFS):
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.hub.ranges and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")):
            start, stop = int(found[1]), int(found[2] or len(data) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        self._end(status, headers, data, self.hub.cuts.get(file.name))

    def _end(self, status: int, headers: dict[str, str], data: bytes = b"", cuts: list[int] | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        large = self.entry.file.endswith(".safetensors") and len(data) > 1 << 17
        cut = cuts.pop(0) if cuts and len(data) > 1 << 16 else None
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data[:cut]), 4096):
                piece = data[:cut][start : start + 4096]
                self.entry.body += len(piece)  # before: who has received it may ask at once for what was sent
                self.wfile.write(piece)
                while self.hub.stalls and large and start > 1 << 16:
                    time.sleep(0.02)
        if cut is not None:
            self.close_connection = True


def fresh_library(patch: pytest.MonkeyPatch, home: Path, *, timeout: float, first: int) -> None:
    """The library with an empty cache, nobody logged in, no patience; `first`: bytes that we ask for first."""
    settings = {
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HF_TOKEN_PATH": home / "token",
        "HF_STORED_TOKENS_PATH": home / "stored_tokens",
    }
    for name, value in settings.items():
        patch.setattr(huggingface_hub.constants, name, str(value))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    patch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", timeout)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    patch.setattr(quantpress.download, "_HEAD", first)
    patch.setattr(quantpress.download, "_WAIT", 0.0)


@contextlib.contextmanager
def serving(hub: Hub, answering: type[Handler] = Handler) -> Iterator[Hub]:
    """The Hub, at `hub.endpoint` as long as this lasts."""
    handler = type("Handler", (answering,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
