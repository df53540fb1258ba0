"""Files of a repository into a folder: those that match, resumed where a run was cut off, and none with a wrong hash.

    user/name@revision → commit → its list of files → match → what release.json says of them → file after file

The list names the hash of each file, and nothing with another gets a final name. A release's own release.json is a
second witness: it was written where the files were made, so it also tells a model that somebody replaced on the Hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.utils import filter_repo_objects

from quantpress.download import Head, Stop, download, partial_of
from quantpress.errors import CheckpointError, DiskFullError, InputError
from quantpress.files import make_folder, output_errors, write_bytes
from quantpress.hub import RemoteFile, Repository, hub_errors, listing
from quantpress.progress import SILENT, Progress
from quantpress.upload import LocalFile

__all__ = ["Pulled", "pull"]

_COMING = ".pull"  # the folder of what has not come whole
_SHOWN = 40  # names in a message
_MAX_LEDGER = 64 << 20  # bytes of a release.json


@dataclass(frozen=True)
class Pulled:
    """What is in the folder now: `fetched` came, `kept` was there already."""

    repository: str
    commit: str
    folder: Path
    fetched: tuple[str, ...]
    kept: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self.__dict__, "folder": str(self.folder)}


def pull(
    repository: str,
    *,
    include: Sequence[str] = (),
    out: str | Path | None = None,
    progress: Progress = SILENT,
) -> Pulled:
    """Fetch the files of `user/name` or `user/name@revision` whose path matches one of `include`, or all.

    Args:
        repository: on the Hub; without a revision, its branch main as it now is.
        include: patterns with `*`, `?` and `[…]`, matched with the whole path, as those of `hf download`.
        out: the folder, default the repository's name here. A file there that has other content is replaced.
        progress: counts bytes.

    Raises CheckpointError for a repository, revision or file that is not there or may not be read, for a pattern that
    nothing matches, and for content that has not the hash it should have; HubError; DiskFullError before anything is
    fetched; OutputError.
    """
    wanted = Repository.parse(repository)
    commit, files = listing(wanted)
    pinned = Repository(wanted.id, commit)
    chosen = _chosen(wanted, files, include)
    folder = Path(out) if out is not None else Path(wanted.name)
    _check_ledger(pinned, files, chosen, progress)
    missing = [file for file in chosen if not _is_here(folder / file.name, file)]
    _check_space(folder, missing)
    for file in missing:
        _fetch(pinned, file, folder, progress)
    with contextlib.suppress(OSError):
        (folder / _COMING).rmdir()  # if nothing of another run waits there
    fetched = tuple(file.name for file in missing)
    return Pulled(wanted.id, commit, folder, fetched, tuple(file.name for file in chosen if file.name not in fetched))


def _chosen(repository: Repository, files: Mapping[str, RemoteFile], include: Sequence[str]) -> list[RemoteFile]:
    """The files that match, by name."""
    for name in files:
        if name.startswith("/") or ".." in Path(name).parts:
            raise CheckpointError(
                repository.id, "name of a file", expected="one inside of the folder", found=repr(name)
            )
    names = sorted(filter_repo_objects(files, allow_patterns=list(include) or None))
    if not names:
        models = sorted(name for name in files if name.endswith(".gguf")) or sorted(files)
        more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
        expected, hint = (
            " or ".join(include) or "files",
            f"It has: {', '.join(models[:_SHOWN])}{more}" if files else None,
        )
        raise CheckpointError(str(repository), "--include", expected=expected, found="no such file", hint=hint)
    return [files[name] for name in names]


def _check_ledger(
    repository: Repository, files: Mapping[str, RemoteFile], chosen: Iterable[RemoteFile], progress: Progress
) -> None:
    """Raise CheckpointError for a model that is not the one that release.json, if there is one, says was made."""
    if "release.json" not in files or files["release.json"].size > _MAX_LEDGER:
        return
    made = _made(_content(repository, files["release.json"]))
    for file in chosen:
        expected = made.get(file.name)
        if file.sha256 is None or expected is None or expected == file.sha256:
            continue
        if file.name.endswith(".gguf"):
            where, hint = f"{repository}/{file.name}", "It was replaced after the release was made: ask its owner"
            raise CheckpointError(
                where, "SHA-256", expected=f"{expected}, as release.json", found=file.sha256, hint=hint
            )
        progress.note(f"{file.name}: changed since the release was made")


def _made(content: bytes) -> dict[str, str]:
    """The hashes that a release.json says, by name; none where it is not one of ours."""
    try:
        files = json.loads(content).get("files")
    except (ValueError, AttributeError):
        return {}
    entries = files.items() if isinstance(files, dict) else ()
    return {name: str(entry["sha256"]) for name, entry in entries if isinstance(entry, dict) and "sha256" in entry}


def _is_here(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and LocalFile(path).is_same(file)


def _coming(folder: Path, file: RemoteFile) -> Path:
    """Where a large file comes to be whole, under its hash."""
    return folder / _COMING / str(file.sha256)


def _check_space(folder: Path, missing: Sequence[RemoteFile]) -> None:
    begun = [partial_of(_coming(folder, file)) for file in missing if file.sha256]
    needed = sum(file.size for file in missing) - sum(path.stat().st_size for path in begun if path.exists())
    free = _free(folder)
    if needed > free:
        raise DiskFullError(folder, needed, free)


def _free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _fetch(repository: Repository, file: RemoteFile, folder: Path, progress: Progress) -> None:
    """One file to its place."""
    path = folder / file.name
    make_folder(path.parent)
    if file.sha256 is None:
        write_bytes(path, _content(repository, file))
    elif file.size > constants.MAX_HTTP_DOWNLOAD_SIZE:  # beyond it, Xet is the only way
        _by_library(repository, file, folder)
    else:
        _by_ranges(repository, file, folder, progress)


def _by_ranges(repository: Repository, file: RemoteFile, folder: Path, progress: Progress) -> None:
    coming = _coming(folder, file)
    make_folder(coming.parent)
    url = hf_hub_url(repository.id, file.name, revision=repository.revision)
    with output_errors(folder / file.name, file.size), hub_errors(repository, file.name):
        if not download(url, coming, file.size, progress, Stop()):
            raise _damaged(repository, file, "another")
        coming.replace(folder / file.name)


def _by_library(repository: Repository, file: RemoteFile, folder: Path) -> None:
    with output_errors(folder / file.name, file.size), hub_errors(repository, file.name):
        hf_hub_download(repository.id, file.name, revision=repository.revision, local_dir=folder)
    found = LocalFile(folder / file.name)
    if not found.is_same(file):
        (folder / file.name).unlink()
        raise _damaged(repository, file, found.sha256)


def _content(repository: Repository, file: RemoteFile) -> bytes:
    """A small file, with the hash that it should have."""
    url = hf_hub_url(repository.id, file.name, revision=repository.revision)
    with hub_errors(repository, file.name):
        content = Head(url, file.size).read(file.size)
    if file.sha256:
        found, expected = hashlib.sha256(content).hexdigest(), file.sha256
    else:
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        expected = str(file.blob)
    if found != expected:
        raise _damaged(repository, file, found)
    return content


def _damaged(repository: Repository, file: RemoteFile, found: str) -> InputError:
    where, hint = (
        f"{repository}/{file.name}",
        "What came was damaged on its way and is discarded. Run the command again",
    )
    return CheckpointError(where, "hash", expected=file.sha256 or file.blob, found=found, hint=hint)
