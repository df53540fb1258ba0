"""A checkpoint on the Hugging Face Hub: everything about it first, the weights when the conversion comes to them.

    org/name@revision → commit → config.json, tokenizer, card → headers of the shards → … checks … → shard after shard
                                 (into the Hub's cache)         (ranges of a few kB)                  (into the cache)

A check that reads weights brings their shards earlier: that the biases of Command R7B and A are zero is the only one.
It all goes through huggingface_hub and its cache, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they
mean to every other tool, and a file that any of them has fetched is not fetched again. The model's name is that of the
folder that people download to: the repository's, without its owner.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, constants, get_token, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm, validate_repo_id

from quantpress.checkpoint import INDEX, Checkpoint, assembled, weight_files
from quantpress.download import CLIENT_ERROR, Ahead, Head, Stop, download, partial_of
from quantpress.errors import CheckpointError, DiskFullError, HubError, QuantpressError
from quantpress.files import output_errors
from quantpress.progress import SILENT, Progress
from quantpress.safetensors import StoredTensor, read_safetensors, tensors_of

__all__ = ["RemoteFile", "Repository", "files_of", "hub_errors", "listing", "login_hint", "pinned", "read"]

_WANTED = re.compile(
    r"[^/]*\.(json|jinja|md|txt|model(\.v\w+)?)|additional_chat_templates/[^/]*\.jinja|\d+_\w+/[^/]*\.json"
)
"""The files beside the weights: of the top folder, templates, and the modules of sentence-transformers."""

_MAX_SMALL = 256 << 20  # no file beside the weights is larger, if it is of use
_SHA256 = re.compile("[0-9a-f]{64}")
_NO_ACCESS = (401, 403)
_AGAIN = "Run the same command again: it goes on where it was"


@dataclass(frozen=True)
class Repository:
    """`org/name` on the Hub, and the branch, tag or commit that is wanted of it."""

    id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Repository:
        """`org/name` or `org/name@revision`; raises CheckpointError for anything else."""
        name, at, revision = text.partition("@")
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            hint = "Without --remote it is a folder here" if Path(text).is_dir() else None
            raise CheckpointError(
                text, "repository", expected="org/name or org/name@revision", found=repr(text), hint=hint
            ) from error
        if at and not revision:
            raise CheckpointError(text, "revision", expected="a branch, tag or commit after @", found="nothing")
        return cls(name, revision or None)

    @property
    def name(self) -> str:
        """What a folder with its files is called."""
        return self.id.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: `sha256` is None for a small one that git itself keeps, under the hash `blob`."""

    name: str
    size: int
    sha256: str | None
    blob: str | None = None


@dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit: its files, and `folder`, where the cache has those that were fetched."""

    repository: Repository
    commit: str
    folder: Path
    files: Mapping[str, RemoteFile]
    progress: Progress

    @property
    def blobs(self) -> Path:
        """Where the cache keeps the content of files, under its hash."""
        return self.folder.parents[1] / "blobs"

    def url(self, name: str) -> str:
        """Of a file at this commit."""
        return hf_hub_url(self.repository.id, name, revision=self.commit)

    def here(self, name: str) -> bool:
        """Whether the cache has a file; one that it has for another commit is linked."""
        sha256 = self.files[name].sha256
        if not (self.folder / name).exists() and sha256 and (self.blobs / sha256).exists():
            self.small(name)
        return (self.folder / name).exists()

    def small(self, name: str) -> None:
        """Have the library put a file into the cache, if it is not there."""
        with _writing(self.folder / name, self.files[name].size), hub_errors(self.repository, name):
            _into_cache(self.repository, name, self.commit)

    def large(self, name: str, stop: Stop) -> None:
        """Bring a shard into the cache, going on where an earlier run was."""
        file, intact = self.files[name], True
        with _writing(self.folder / name, file.size), hub_errors(self.repository, name):
            if file.sha256 and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:  # beyond it, Xet is the only way
                intact = download(self.url(name), self.blobs / file.sha256, file.size, self.progress, stop)
        if not intact:
            where, hint = f"{self.repository}/{name}", f"What came was damaged on its way and is discarded. {_AGAIN}"
            raise CheckpointError(where, "SHA-256", expected=file.sha256, found="another", hint=hint)
        self.small(name)

    def tensors(self, ahead: Ahead, path: Path) -> dict[str, StoredTensor]:
        """What the header of a shard says, from the Hub unless the shard is here."""
        if path.exists():
            return read_safetensors(path)
        with hub_errors(self.repository, path.name):
            head = Head(self.url(path.name), self.files[path.name].size)
            return tensors_of(path, self.files[path.name].size, head.read, partial(ahead.wait_for, path.name))


def read(repository: str, progress: Progress = SILENT) -> Checkpoint:
    """Open `org/name` or `org/name@revision`: config, tokenizer, card, and the headers of all shards, validated.

    A shard is fetched at the first read of a tensor in it, and the one after it meanwhile; `close` ends that. Raises
    CheckpointError for a repository, revision or file that is not there or not to be read, and what checkpoint.read
    raises; HubError where the Hub cannot be reached; DiskFullError where the cache has no room for the shards.
    """
    wanted = Repository.parse(repository)
    folder = _pin(wanted)
    with _named(wanted, folder):
        found = _offline(folder) if constants.HF_HUB_OFFLINE else _online(_snapshot(wanted, folder, progress))
    return replace(found, model=wanted.name)


def pinned(repository: str) -> Repository:
    """The same at the commit that it now stands for; raises what `read` raises before it looks at any tensor."""
    wanted = Repository.parse(repository)
    return replace(wanted, revision=_pin(wanted).name)


def _pin(repository: Repository) -> Path:
    """The folder that the cache has for the commit, which is its name, with config.json in it."""
    with _writing(Path(constants.HF_HUB_CACHE) / "config.json", 0), hub_errors(repository, "config.json"):
        return _into_cache(repository, "config.json", repository.revision).parent


def _offline(folder: Path) -> Checkpoint:
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return assembled(folder, files, read_safetensors)


def _online(snapshot: _Snapshot) -> Checkpoint:
    if INDEX not in snapshot.files:
        weight_files(snapshot.folder, snapshot.files)  # pickles are refused before anything else comes
    _fetch_small(snapshot)
    missing = [name for name in weight_files(snapshot.folder, snapshot.files) if not snapshot.here(name)]
    _check_space(snapshot, missing)
    ahead = Ahead(snapshot.large, missing)
    return replace(assembled(snapshot.folder, snapshot.files, partial(snapshot.tensors, ahead)), close=ahead.close)


def _into_cache(repository: Repository, name: str, revision: str | None) -> Path:
    return Path(hf_hub_download(repository.id, name, revision=revision, tqdm_class=_NoBar))


class _NoBar(tqdm):
    """The library's bars would draw over ours."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]


def _snapshot(repository: Repository, folder: Path, progress: Progress) -> _Snapshot:
    """The list of the files, of the commit that the cache has the config.json of."""
    _, files = listing(repository, folder.name)
    return _Snapshot(repository, folder.name, folder, files, progress)


def listing(repository: Repository, commit: str | None = None) -> tuple[str, dict[str, RemoteFile]]:
    """The commit that a repository stands for (or this one of its commits), and the files in it by name.

    Raises CheckpointError for a repository or revision that is not there or not to be read, HubError.
    """
    with hub_errors(repository):
        timeout, revision = constants.HF_HUB_DOWNLOAD_TIMEOUT, commit or repository.revision
        found = HfApi().model_info(repository.id, revision=revision, files_metadata=True, timeout=timeout)
    return str(found.sha), files_of(found)


def files_of(found: ModelInfo) -> dict[str, RemoteFile]:
    """The files of an answer that was asked for with `files_metadata`, by name."""
    files = {}
    for one in found.siblings or ():
        sha256 = one.lfs.sha256 if one.lfs and _SHA256.fullmatch(one.lfs.sha256) else None
        files[one.rfilename] = RemoteFile(one.rfilename, one.size or 0, sha256, one.blob_id)
    return files


def _fetch_small(snapshot: _Snapshot) -> None:
    """Bring everything but the weights into the cache."""
    wanted = [
        file
        for file in snapshot.files.values()
        if _WANTED.fullmatch(file.name) and file.size <= _MAX_SMALL and not (snapshot.folder / file.name).exists()
    ]
    if not wanted:
        return
    with snapshot.progress.task(f"fetch {len(wanted)} files", sum(file.size for file in wanted), "bytes") as advance:
        for file in wanted:
            snapshot.small(file.name)
            advance(file.size)


def _check_space(snapshot: _Snapshot, missing: Sequence[str]) -> None:
    """Raise DiskFullError unless the cache has room for what is still to come of these files."""
    needed = 0
    for file in (snapshot.files[name] for name in missing):
        begun = partial_of(snapshot.blobs / file.sha256) if file.sha256 else snapshot.blobs / "none"
        needed += max(0, file.size - (begun.stat().st_size if begun.exists() else 0))
    free = _free(snapshot.folder)
    if needed > free:
        raise DiskFullError(f"{constants.HF_HUB_CACHE} (the Hub's cache; HF_HOME moves it)", needed, free)


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _writing(path: Path, size: int) -> contextlib.AbstractContextManager[None]:
    return output_errors(path, size, lambda: _free(path))


@contextlib.contextmanager
def _named(repository: Repository, folder: Path) -> Iterator[None]:
    """Errors about a file in the cache name the repository's."""
    try:
        yield
    except CheckpointError as error:
        where = str(error.path or repository).replace(str(folder), str(repository), 1)
        offline = "HF_HUB_OFFLINE is set: without it, what the cache lacks is fetched"
        hint = error.hint or (offline if constants.HF_HUB_OFFLINE else None)
        raise CheckpointError(where, error.field, expected=error.expected, found=error.found, hint=hint) from error


@contextlib.contextmanager
def hub_errors(repository: Repository, file: str = "") -> Iterator[None]:
    """The library's errors as ours."""
    try:
        yield
    except (HfHubHTTPError, EntryNotFoundError, FileMetadataError, OfflineModeIsEnabled, CLIENT_ERROR) as error:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        raise _translated(cause or error, repository, file) from error


def _translated(error: BaseException, repository: Repository, file: str) -> QuantpressError:
    where = f"{repository}/{file}" if file else str(repository)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        hint = f"Ask for it at {constants.ENDPOINT}/{repository.id}. {login_hint()}"
        return CheckpointError(where, "repository", expected="access to it", found="a gated one", hint=hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = f"If it is private: {login_hint()}"
        return CheckpointError(where, "repository", expected="one that you may read", found="none", hint=hint)
    if status in _NO_ACCESS:
        found = f"HTTP status {status}"
        return CheckpointError(where, "repository", expected="access to it", found=found, hint=login_hint())
    if isinstance(error, RevisionNotFoundError):
        expected, found = "a branch, tag or commit", f"none named {repository.revision}"
        return CheckpointError(repository.id, "revision", expected=expected, found=found)
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(f"{where}: not in the cache, and HF_HUB_OFFLINE is set. Unset it, or fetch the file before")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return CheckpointError(str(repository), file, expected="a file", found="none")
    if isinstance(error, FileMetadataError):
        return HubError(f"{where}: {constants.ENDPOINT} does not answer as the Hub does. Check HF_ENDPOINT")
    found = f"HTTP status {status}" if status else " ".join(str(error).split()) or type(error).__name__
    return HubError(f"{where}: no connection to {constants.ENDPOINT}: {found}. {_AGAIN}")


def login_hint() -> str:
    """What somebody can do who has no access."""
    if get_token() is None:
        return "Log in with `hf auth login`, or set HF_TOKEN"
    return "The token in use has no right to it: log in with another (`hf auth login`), or set HF_TOKEN"
