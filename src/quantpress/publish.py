"""A release folder to a repository of the Hub: checked first, the page last, and only what is missing.

    release.json → what to send → split (resplit.py) → check (errors stop here) → models, a commit each
    → the rest, one commit → README.md

release.json is the list: what it names, itself, and licences that somebody laid beside it. So neither `work/` nor what
earlier runs left nor anybody's notes are sent. The page comes last, because a repository without one is passed by,
while one with a page and half its files disappoints. Nothing is deleted there: what an older release had is named.

What a streaming run sent and removed here (stream.py) has to be there, with the hash that release.json says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from quantpress.errors import CheckpointError, InputError, OutputError
from quantpress.files import file_digest, write_json
from quantpress.hub import RemoteFile, Repository, listing
from quantpress.names import hidden
from quantpress.progress import SILENT, Progress
from quantpress.resplit import resplit, too_large
from quantpress.sizes import human_size
from quantpress.upload import LocalFile, Uploader, target

if TYPE_CHECKING:
    from quantpress.check import Finding

__all__ = ["Item", "Publication", "contents", "publish"]

PAGE = "README.md"
SPLIT_BYTES = 50 * 10**9  # as the release card's

_LICENCE = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY|USAGE_POLICY)[^/]*", re.IGNORECASE)
_OWN_COMMIT = 10 * 10**6  # bytes from which a file has a commit of its own, so that an interrupted run keeps it


@dataclass(frozen=True)
class Item:
    """A file of a publication: `sent` (in a dry run: it would be), and why or why not."""

    file: str
    bytes: int
    sent: bool
    why: str


@dataclass(frozen=True)
class Publication:
    """What was done, or in a dry run would be; `left`: files of the repository that are not of this release."""

    url: str
    dry_run: bool
    files: tuple[Item, ...]
    left: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Sent, of all files."""
        return sum(item.bytes for item in self.files if item.sent)


def publish(
    folder: str | Path,
    *,
    repository: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    split_bytes: int = SPLIT_BYTES,
    progress: Progress = SILENT,
) -> Publication:
    """Send a release to `user/name` on the Hub, which is made if it is not there; a second run sends what is missing.

    Args:
        folder: made by `release`.
        repository: default the one that the release was made for.
        private: make it private; one that is there must be.
        dry_run: send nothing, and ask the Hub only what is there (without a login not even that).
        split_bytes: split larger models, in the folder: see `resplit.resplit`.
        progress: told of every file.

    Raises InputError for a folder that is no complete release, one that `check` finds errors in, and a repository that
    may not be written to; HubError where the connection is lost for good or a file arrived damaged; OutputError while
    another run is at work in the folder; what `resplit` raises.
    """
    folder = Path(os.path.abspath(folder))
    with _unchanging(folder, fcntl.LOCK_SH if dry_run else fcntl.LOCK_EX):
        release = _release(folder)
        files, streamed = contents(folder, release), _streamed(folder, release)
        wanted = _repository(release, repository, folder, progress)
        _check_sizes(files, split_bytes)
        if dry_run:
            for file in too_large(folder, split_bytes):
                progress.note(f"{file} would be split in parts of at most {human_size(split_bytes)} first")
            _gate(folder, True, progress)
            return _forecast(wanted, files, streamed, progress)
        uploader = Uploader(wanted.id, progress)
        resplit(folder, split_bytes, progress=progress)
        files = contents(folder, _release(folder))
        _gate(folder, False, progress)
        return _send(uploader, files, streamed, private, progress)


def contents(folder: Path, release: dict[str, Any]) -> dict[str, LocalFile]:
    """What is sent of a release, by its name in the repository, in the order of sending: models, rest, page.

    Raises InputError for a release without a page, and for files that are listed and missing.
    """
    streamed = _streamed(folder, release)
    listed = [name for name in release["files"] if not name.startswith("work/") and name not in streamed]
    licences = [path.name for path in folder.iterdir() if _LICENCE.fullmatch(path.name) and path.is_file()]
    names = sorted({*listed, *licences, "release.json"}, key=lambda name: (name == PAGE, not _is_model(name), name))
    missing = [name for name in names if not (folder / name).is_file()]
    if PAGE not in names or missing:
        hint = "Run `quantpress release` again: it completes the folder"
        found = f"no {', '.join(missing or [PAGE])}"
        raise InputError(folder, "release", expected="a complete one", found=found, hint=hint)
    return {name: LocalFile(folder / name) for name in names}


def _streamed(folder: Path, release: dict[str, Any]) -> dict[str, RemoteFile]:
    """What an earlier run sent and removed here, as release.json has it."""
    entries = {name: entry for name, entry in release["files"].items() if isinstance(entry, dict)}
    return {
        name: RemoteFile(name, entry.get("bytes", 0), entry.get("sha256"))
        for name, entry in entries.items()
        if entry.get("remote") and not (folder / name).is_file()
    }


def _is_model(name: str) -> bool:
    return name.endswith(".gguf")


def _release(folder: Path) -> dict[str, Any]:
    """The folder's release.json, whose files are in the folder."""
    path = folder / "release.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "Publish a folder that `quantpress release` made"
        raise InputError(path, "file", expected="a readable one", found=error.strerror, hint=hint) from error
    except ValueError as error:
        raise InputError(path, "release", expected="JSON", found=str(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise InputError(path, "files", expected="an object, as `quantpress release` writes it", found="none")
    for name in found["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(path, "files", expected="names of files in the folder", found=repr(name))
    return found


def _repository(release: dict[str, Any], given: str | None, folder: Path, progress: Progress) -> Repository:
    """Where to publish; says so where the page, which was made before, names another place."""
    settings = release.get("settings")
    made_for = settings.get("repository") if isinstance(settings, dict) else None
    if not (given or made_for):
        raise InputError(folder, "repository", expected="--repo user/name", found="none, and the release names none")
    if given and given != made_for:
        names = f"names {made_for}" if made_for else "names no repository"
        progress.note(f"the page {names}: `quantpress release … --repository {given}` makes one with its commands")
    return target(given or str(made_for))


@contextlib.contextmanager
def _unchanging(folder: Path, lock_kind: int) -> Iterator[None]:
    """No run of `release` is at work in the folder, nor begins to, as long as this lasts; an exclusive one is alone."""
    if not (folder / "work").is_dir():  # a copy, without what was not published
        yield
        return
    lock = os.open(folder / "work", os.O_RDONLY)
    try:
        fcntl.flock(lock, lock_kind | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OutputError(f"{folder}: another run is at work in this folder. Wait for it") from None
    finally:
        os.close(lock)


def _check_sizes(files: dict[str, LocalFile], split_bytes: int) -> None:
    """Raise InputError for a larger file that is no model: only those can be split."""
    for name, file in files.items():
        if file.size > split_bytes and (not _is_model(name) or hidden(name)):
            expected = f"at most {split_bytes:,} bytes, which --split-size allows, since only models are split"
            raise InputError(file.path, "size", expected=expected, found=f"{file.size:,}")


def _gate(folder: Path, dry_run: bool, progress: Progress) -> None:
    """Raise InputError with what `check` finds wrong; say what it warns of.

    Files are loaded in llama.cpp, unless this is a dry run, or an earlier run loaded the same: a run that goes on after
    a broken connection need not wait for that again.
    """
    from quantpress.check import check

    passed = folder / "work" / "passed.json"
    release = {"quantpress": version("quantpress"), "release.json": file_digest(folder / "release.json")}
    fast = dry_run or _said(passed) == release
    findings = check(folder, fast=fast, progress=progress)
    lines = {kind: [_line(one) for one in findings if one.severity == kind] for kind in ("error", "warning")}
    for line in lines["warning"]:
        progress.note(f"warning: {line}")
    if lines["error"]:
        listed = "\n".join(f"  {line}" for line in lines["error"])
        found = f"{len(lines['error'])}:\n{listed}\nNothing was sent"
        raise InputError(folder, "check", expected="no errors", found=found)
    if not fast and passed.parent.is_dir():
        write_json(passed, release)


def _said(path: Path) -> Any:
    """What a JSON file says; None for none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _line(finding: Finding) -> str:
    where = f"{finding.file}: " if finding.file else ""
    return f"{where}{finding.what}" + (f". {finding.hint}" if finding.hint else "")


def _forecast(
    repository: Repository, files: dict[str, LocalFile], streamed: dict[str, RemoteFile], progress: Progress
) -> Publication:
    """What would be sent."""
    url = f"{constants.ENDPOINT}/{repository.id}"
    if get_token() is None:
        progress.note("not logged in: what the repository has is not known")
        items = [Item(name, file.size, True, "not known whether it is there") for name, file in files.items()]
        return Publication(url, True, tuple(items))
    there = _there(repository, progress)
    _check_streamed(repository, streamed, there)
    items = [_item(name, file.size, not file.is_same(there.get(name)), there) for name, file in files.items()]
    return _publication(url, True, items, streamed, there)


def _check_streamed(repository: Repository, streamed: dict[str, RemoteFile], there: dict[str, RemoteFile]) -> None:
    """Raise InputError unless the repository has what was sent to it and is no longer here."""
    for name, file in streamed.items():
        found = there.get(name)
        if found is None or (found.size, found.sha256) != (file.size, file.sha256):
            expected, hint = f"SHA-256 {file.sha256}, which was sent and removed here", "Run `quantpress release` again"
            sha256 = f"SHA-256 {found.sha256}" if found else "no such file"
            raise InputError(f"{repository}/{name}", "file", expected=expected, found=sha256, hint=hint)


def _there(repository: Repository, progress: Progress) -> dict[str, RemoteFile]:
    try:
        return listing(repository)[1]
    except CheckpointError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        progress.note(f"{repository} is not there: it would be made")
        return {}


def _item(name: str, size: int, sent: bool, there: dict[str, RemoteFile]) -> Item:
    why = "is there" if not sent else "other content there" if name in there else "new"
    return Item(name, size, sent, why)


def _publication(
    url: str, dry_run: bool, items: list[Item], streamed: dict[str, RemoteFile], there: dict[str, RemoteFile]
) -> Publication:
    """With what was sent before, and what is there beside it."""
    found = (*(_item(name, file.size, False, there) for name, file in streamed.items()), *items)
    left = there.keys() - {item.file for item in found} - {".gitattributes"}
    return Publication(url, dry_run, found, tuple(sorted(left)))


def _send(
    uploader: Uploader,
    files: dict[str, LocalFile],
    streamed: dict[str, RemoteFile],
    private: bool,
    progress: Progress,
) -> Publication:
    """Everything, a commit at a time."""
    uploader.create(private=private)
    uploader.check_card(files[PAGE].path.read_text(encoding="utf-8"))
    there = uploader.files()
    _check_streamed(uploader.repository, streamed, there)
    sent: list[str] = []
    for group in _commits(files):
        sent += uploader.upload({name: files[name] for name in group})
    items = [_item(name, file.size, name in sent, there) for name, file in files.items()]
    found = _publication(uploader.url, False, items, streamed, there)
    if found.left:
        progress.note(f"in the repository, but not of this release: {', '.join(found.left)}")
    return found


def _commits(files: dict[str, LocalFile]) -> Sequence[list[str]]:
    """The names, a commit each: what is large alone, what is small together, the page at last."""
    alone = [name for name, file in files.items() if _is_model(name) or file.size >= _OWN_COMMIT]
    small = [name for name in files if name not in alone and name != PAGE]
    return [*([name] for name in alone if name != PAGE), small, [PAGE]]
