"""The other half of the Hub: a repository that can be made and written to, as huggingface_hub does it over plain LFS.

Large files go to a store under their hash, in one PUT or in parts; a commit (lines of JSON) then names them, and brings
small files itself. Connections can be cut in the middle of a PUT, answers be errors or get lost, content be damaged.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from tests.hub_server import LFS, Answer, Handler, Hub, git_hash, serving, sha256


@dataclass
class UploadHub(Hub):
    """`revisions["main"]` is where the repository's files are, and `store` where the content of large ones is."""

    store: Path = Path()
    exists: bool = False
    chunk: int | None = None  # bytes a part; None: one PUT a file
    committed: list[list[str]] = field(default_factory=list)  # the names of each commit
    received: int = 0  # bytes of large files
    put_cuts: list[int] = field(default_factory=list)  # bytes after which a PUT's connection is closed
    failures: dict[str, list[tuple[int, str]]] = field(
        default_factory=dict
    )  # route → statuses and words before success
    lost: int = 0  # commits whose answer is lost
    flips: bool = False  # content is damaged on its way into the store

    @property
    def folder_of_main(self) -> Path:
        return self.revisions["main"]

    def renew(self) -> None:
        """The branch main stands for what is in its folder now."""
        self.commits = {name: self._commit(folder) for name, folder in self.revisions.items()}

    def names(self) -> list[str]:
        """The files of main."""
        folder = self.folder_of_main
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class UploadHandler(Handler):
    hub: UploadHub

    def do_GET(self) -> None:  # noqa: N802
        if not self.hub.exists:
            self._begin()
            self._end(404, {"X-Error-Code": "RepoNotFound"})
        else:
            super().do_GET()

    def do_PUT(self) -> None:  # noqa: N802
        path = self._begin()
        cut = self.hub.put_cuts.pop(0) if self.hub.put_cuts else None
        body = self._received(cut)
        self.hub.received += len(body)
        if cut is not None:
            self.close_connection = True
            return
        if self._fails("put"):
            return
        if self.hub.flips:
            body = body[:-1] + bytes([body[-1] ^ 1])
        target = self.hub.store / "incoming" / path.removeprefix("/store/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
        if "/part/" not in path:
            target.replace(self.hub.store / path.removeprefix("/store/"))
        self._end(200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})

    def do_POST(self) -> None:  # noqa: N802
        path = self._begin()
        body = self._received()
        name = re.escape(self.hub.id)
        routes = {
            r"/api/repos/create": self._create,
            r"/api/validate-yaml": self._validate,
            rf"/api/models/{name}/preupload/main": self._preupload,
            rf"/api/models/{name}/paths-info/[^/]+": self._paths_info,
            rf"/api/models/{name}/commit/main": self._commit,
            rf"/{name}\.git/info/lfs/objects/batch": self._batch,
            r"/complete/([0-9a-f]+)": self._complete,
            r"/verify/[0-9a-f]+": lambda body, path: self._json({}),
        }
        route = next(route for pattern, route in routes.items() if re.fullmatch(pattern, path))
        name = path.rstrip("/").split("/")[-1] if route != self._commit else "commit"
        if self.hub.refusal:
            self._end(self.hub.refusal[0], {"X-Error-Code": self.hub.refusal[1]})
        elif not self._fails(name if route != self._paths_info else "paths-info"):
            route(body, path)  # type: ignore[operator]

    def _begin(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.entry = Answer(self.command, path, None, "Authorization" in self.headers)
        self.hub.answers.append(self.entry)
        return path

    def _received(self, cut: int | None = None) -> bytes:
        """The body, or its first bytes."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if cut is None else min(cut, length))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
            if cut is not None and sum(map(len, parts)) >= cut:
                return b"".join(parts)[:cut]
        self.rfile.readline()
        return b"".join(parts)

    def _fails(self, route: str) -> bool:
        waiting = self.hub.failures.get(route)
        if not waiting:
            return False
        status, words = waiting.pop(0)
        self._end(status, {"X-Error-Message": words} if words else {})
        return True

    def _json(self, value: Any) -> None:
        self._end(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _create(self, body: bytes, path: str) -> None:
        asked = json.loads(body)
        assert f"{asked['organization']}/{asked['name']}" == self.hub.id
        self.hub.exists, self.hub.private = True, asked.get("visibility") == "private"
        (self.hub.folder_of_main / ".gitattributes").write_text("*.gguf filter=lfs\n", encoding="utf-8")
        self.hub.renew()
        self._json({"url": f"{self.hub.endpoint}/{self.hub.id}"})

    def _validate(self, body: bytes, path: str) -> None:
        if json.loads(body)["content"].startswith("---\n"):
            return self._json({"errors": [], "warnings": []})
        said = {"errors": [{"message": '"license" is required'}], "warnings": []}
        return self._end(400, {"Content-Type": "application/json"}, json.dumps(said).encode())

    def _preupload(self, body: bytes, path: str) -> None:
        files = [file["path"] for file in json.loads(body)["files"]]
        modes = [{"path": one, "uploadMode": "lfs" if one.endswith(LFS) else "regular"} for one in files]
        self._json({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})

    def _batch(self, body: bytes, path: str) -> None:
        self._json({"transfer": "basic", "objects": [self._actions(**one) for one in json.loads(body)["objects"]]})

    def _actions(self, oid: str, size: int) -> dict[str, Any]:
        stored = self.hub.store / oid
        if stored.exists() and sha256(stored) == oid:
            return {"oid": oid, "size": size}
        here, chunk = self.hub.endpoint, self.hub.chunk
        upload: dict[str, Any] = {"href": f"{here}/store/{oid}"}
        if chunk is not None and size > chunk:
            parts = {f"{no + 1:05d}": f"{here}/store/{oid}/part/{no + 1}" for no in range(-(-size // chunk))}
            upload = {"href": f"{here}/complete/{oid}", "header": {"chunk_size": str(chunk), **parts}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{here}/verify/{oid}"}}}

    def _complete(self, body: bytes, path: str) -> None:
        oid = path.rpartition("/")[2]
        parts = self.hub.store / "incoming" / oid / "part"
        wanted = [str(part["partNumber"]) for part in json.loads(body)["parts"]]
        (self.hub.store / oid).write_bytes(b"".join((parts / part).read_bytes() for part in wanted))
        self._json({})

    def _paths_info(self, body: bytes, path: str) -> None:
        found, there = [], self.hub.folder(path.rpartition("/")[2])
        if there is None:
            return self._end(404, {"X-Error-Code": "RevisionNotFound"})
        for name in parse_qs(body.decode())["paths"]:
            file = there[1] / name
            if file.is_file():
                size = file.stat().st_size
                lfs = {"lfs": {"oid": sha256(file), "size": size, "pointerSize": 1}} if name.endswith(LFS) else {}
                found.append({"type": "file", "path": name, "size": size, "oid": git_hash(file), **lfs})
        return self._json(found)

    def _commit(self, body: bytes, path: str) -> None:
        lines = [json.loads(line) for line in body.decode().splitlines()]
        assert lines[0]["key"] == "header"
        for line in lines[1:]:
            value, target = line["value"], self.hub.folder_of_main / line["value"]["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if line["key"] == "lfsFile":
                shutil.copyfile(self.hub.store / value["oid"], target)
            else:
                target.write_bytes(base64.b64decode(value["content"]))
        self.hub.committed.append([line["value"]["path"] for line in lines[1:]])
        self.hub.renew()
        if self.hub.lost:
            self.hub.lost -= 1
            self.close_connection = True
            return
        found = {"commitUrl": f"{self.hub.endpoint}/{self.hub.id}/commit/0", "commitOid": self.hub.commits["main"]}
        self._json({**found, "pullRequestUrl": None})


def log_in(home: Path, patch: pytest.MonkeyPatch) -> None:
    """The library with a login, without Xet and without patience."""
    for name, path in {"HF_HOME": home, "HF_TOKEN_PATH": home / "token", "HF_STORED_TOKENS_PATH": home / "t"}.items():
        patch.setattr(constants, name, str(path))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    patch.setenv("HF_TOKEN", "hf_secret")
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@contextlib.contextmanager
def uploads(id: str, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """The library's Hub is one that runs here, on which the repository is not there yet."""
    for name in ("main", "store"):
        (folder / name).mkdir(parents=True)
    made = UploadHub(id, {"main": folder / "main"}, store=folder / "store")
    with serving(made, UploadHandler) as running:
        patch.setattr(constants, "ENDPOINT", made.endpoint)
        template = made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield running  # type: ignore[misc]
