"""Files into one repository of the Hub: a commit at a time, and none is done before the Hub names its hash.

    look what is there → send what is missing, in one commit → look again: each file's SHA-256, or git's hash of it

What breaks on the way is begun again with that first look, after a growing wait: a commit whose answer was lost is
found to be there, and nothing is sent twice. The bytes go the way that huggingface_hub chooses, Xet where it is
installed and LFS elsewhere; both ask the Hub first, so a file whose commit is missing but whose bytes arrived costs one
request. `upload_folder` of that library takes the files in its own order, and looks at no hash when it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from json import JSONDecodeError
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from quantpress.download import CLIENT_ERROR
from quantpress.errors import HubError, InputError, QuantpressError
from quantpress.files import file_digest
from quantpress.hub import RemoteFile, Repository, files_of, login_hint
from quantpress.progress import SILENT, BarProgress, Progress
from quantpress.sizes import human_size

__all__ = ["LocalFile", "Uploader", "target"]

_ATTEMPTS = 6  # before a connection counts as lost; the library tries each request as often by itself
_WAIT = 2.0  # seconds before the second of them, twice as many before each further one
_PASSING = (408, 409, 412, 425, 429)  # statuses that another attempt may not meet, beside all from 500
_LOGGED_OUT, _PAY, _FORBIDDEN = 401, 402, 403
_FULL = ("storage", "quota", "limit")  # words of a refusal that is about room, not about rights
_AGAIN = "Run the same command again: it sends only what is missing"
_HASH = 1 << 22

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalFile:
    """A file here, and the two hashes that the Hub may know it by."""

    path: Path

    @cached_property
    def size(self) -> int:
        """Bytes; raises InputError for a file that is not there."""
        with _reading(self.path):
            return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """Of the content, hexadecimal: what LFS and Xet keep large files under."""
        return file_digest(self.path)

    @cached_property
    def blob(self) -> str:
        """Git's hash of the content, hexadecimal: SHA-1 after a header with the size."""
        found = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with _reading(self.path), self.path.open("rb") as file:
            while block := file.read(_HASH):
                found.update(block)
        return found.hexdigest()

    def is_same(self, remote: RemoteFile | None) -> bool:
        """Whether a repository's file has this content."""
        if remote is None or remote.size != self.size:
            return False
        return self.sha256 == remote.sha256 if remote.sha256 else self.blob == remote.blob


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(path, "file", expected="a readable one", found=error.strerror) from error


def target(repository: str) -> Repository:
    """`user/name` as a repository to write to; raises InputError for anything else."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        found, hint = repr(repository), str(error).partition(":")[0]
        raise InputError(None, "repository", expected="user/name", found=found, hint=hint) from error
    if "/" not in repository:
        raise InputError(None, "repository", expected="user/name", found=repr(repository))
    return Repository(repository)


class Uploader:
    """Sends files to the branch main of `user/name`; when `upload` returns, the Hub has them and they may be deleted.

    Making one raises InputError where nobody is logged in or the name cannot be one, HubError where the library is
    told to stay offline.
    """

    def __init__(self, repository: str, progress: Progress = SILENT) -> None:
        self.repository, self.progress = target(repository), progress
        if constants.HF_HUB_OFFLINE:
            raise HubError(f"{self.repository}: HF_HUB_OFFLINE is set. Unset it to publish")
        if get_token() is None:
            raise InputError(
                self.repository.id, "token", expected="one that may write", found="none", hint=login_hint()
            )
        self._api = HfApi()

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"{constants.ENDPOINT}/{self.repository.id}"

    def create(self, *, private: bool = False) -> bool:
        """Make the repository if it is not there; returns whether it was made.

        Raises InputError where a public one is there and `private` is asked for, or it may not be made.
        """
        return self._patient("repository", lambda: self._create(private))

    def _create(self, private: bool) -> bool:
        try:
            found = self._api.model_info(self.repository.id)
        except RepositoryNotFoundError:
            self._api.create_repo(self.repository.id, private=private, exist_ok=True)
            return True
        if private and not found.private:
            hint = f"Make it private at {self.url}/settings, or publish to another"
            raise InputError(
                self.repository.id, "repository", expected="a private one", found="a public one", hint=hint
            )
        if found.private and not private:
            self.progress.note(f"{self.repository.id} is private and stays so")
        return False

    def check_card(self, text: str) -> None:
        """Have the Hub judge a card's front matter, before anything is sent; raises InputError with its words."""
        about = {"content": text, "repoType": "model"}

        def ask() -> None:
            address = f"{constants.ENDPOINT}/api/validate-yaml"
            hf_raise_for_status(get_session().post(address, json=about, headers=build_hf_headers()))

        self._patient("README.md", ask)

    def files(self) -> dict[str, RemoteFile]:
        """What the repository holds, by name."""
        return self._patient("files", lambda: files_of(self._api.model_info(self.repository.id, files_metadata=True)))

    def upload_file(self, path: Path, name: str) -> bool:
        """`upload` of one; returns whether it had to be sent."""
        return bool(self.upload({name: LocalFile(path)}))

    def upload(self, files: Mapping[str, LocalFile]) -> list[str]:
        """Send the files that the repository lacks or has otherwise, in one commit, and verify all by their hashes.

        `files`: by their names in the repository. Returns the names that were sent. Raises InputError for a file that
        cannot be read or a repository that may not be written to; HubError where the connection is lost for good, or
        the Hub has other content than was sent.
        """
        sent: list[str] = []

        def attempt() -> None:
            there = self._look(list(files))
            missing = [name for name, file in files.items() if not file.is_same(there.get(name))]
            if missing:
                sent[:] = dict.fromkeys([*sent, *missing])
                commit = self._commit({name: files[name] for name in missing})
                self._verify({name: files[name] for name in missing}, commit)

        self._patient(next(iter(files)) if len(files) == 1 else f"{len(files)} files", attempt)
        return sent

    def _look(self, names: Sequence[str], commit: str | None = None) -> dict[str, RemoteFile]:
        """Those of these files that the repository has, now or at one of its commits."""
        found = self._api.get_paths_info(self.repository.id, list(names), revision=commit)
        return {
            one.path: RemoteFile(one.path, one.size, one.lfs.sha256 if one.lfs else None, one.blob_id)
            for one in found
            if isinstance(one, RepoFile)
        }

    def _commit(self, files: Mapping[str, LocalFile]) -> str:
        """Send these files; returns the commit."""
        operations = []
        for name, file in files.items():
            operation = CommitOperationAdd(name, str(file.path))
            operation.upload_info.sha256 = bytes.fromhex(file.sha256)  # or it would be read once more
            operations.append(operation)
        size = human_size(sum(file.size for file in files.values()))
        self.progress.note(f"send {' '.join(files) if len(files) == 1 else f'{len(files)} files'}: {size}")
        message = f"Upload {next(iter(files))}" if len(files) == 1 else f"Upload {len(files)} files"
        with _bars(self.progress), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the card, which was judged before
            return self._api.create_commit(self.repository.id, operations, commit_message=message).oid

    def _verify(self, files: Mapping[str, LocalFile], commit: str) -> None:
        """Raise HubError unless the repository has just this content at a commit."""
        there = self._look(list(files), commit)
        for name, file in files.items():
            remote = there.get(name)
            if not file.is_same(remote):
                found = "no such file" if remote is None else f"{remote.size:,} bytes, {remote.sha256 or remote.blob}"
                expected = f"{file.size:,} bytes, {file.blob if remote and not remote.sha256 else file.sha256}"
                where = f"{self.repository}/{name}"
                raise HubError(f"{where}: hash after the upload: expected {expected}, found {found}. {_AGAIN}")

    def _patient(self, what: str, work: Callable[[], Result]) -> Result:
        """The result of `work`, which is done again where the connection broke or the Hub had no time."""
        where, wait = f"{self.repository}/{what}", _WAIT
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return work()
            except QuantpressError:
                raise
            except (CLIENT_ERROR, RuntimeError, OSError, ValueError) as error:
                cause = _cause(error)
                if not _passes(cause) or attempt == _ATTEMPTS:
                    raise _refusal(cause, self.repository, what) from error
                self.progress.note(f"{where}: {_words(cause)}; again in {wait:.0f} s")
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _bars(progress: Progress) -> Iterator[None]:
    """The library's bars, which know the bytes on their way, where ours would stand in a terminal; else none."""
    if isinstance(progress, BarProgress) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _cause(error: BaseException) -> BaseException:
    """What the library's threads wrapped."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def _passes(error: BaseException) -> bool:
    """Whether another attempt may meet no such error: a connection that broke, a Hub that is busy."""
    status = _status(error)
    if status is None and isinstance(error, (ValueError, PermissionError, FileNotFoundError)):
        return False  # what the library found wrong with a request, or Xet with the token
    return status is None or status in _PASSING or status >= 500


def _words(error: BaseException) -> str:
    """What happened, in a line; the server's own words where it has any."""
    said = getattr(error, "server_message", None) or (None if _status(error) else str(error))
    status = f"HTTP status {_status(error)}" if _status(error) else None
    return ": ".join(filter(None, (status, " ".join((said or "").split()).rstrip(".")))) or type(error).__name__


def _refusal(error: BaseException, repository: Repository, what: str) -> QuantpressError:
    """The library's error as ours."""
    status, words = _status(error), _words(error)
    if isinstance(error, RepositoryNotFoundError) or status == _LOGGED_OUT:
        return InputError(repository.id, "repository", expected="one you may write to", found="none", hint=login_hint())
    if status == _PAY or (status == _FORBIDDEN and any(word in words.lower() for word in _FULL)):
        hint = f"Its owner's room on the Hub is used up: {constants.ENDPOINT}/settings/billing"
        return InputError(f"{repository}/{what}", "storage", expected="room for it", found=words, hint=hint)
    if status == _FORBIDDEN:
        hint = f"A token needs the right to write, to this repository: {constants.ENDPOINT}/settings/tokens"
        return InputError(repository.id, "token", expected="one that may write", found=words, hint=hint)
    if isinstance(error, JSONDecodeError):
        return HubError(f"{repository}: {constants.ENDPOINT} does not answer as the Hub does. Check HF_ENDPOINT")
    if not _passes(error):
        return InputError(f"{repository}/{what}", "upload", expected="what the Hub takes", found=words)
    return HubError(f"{repository}/{what}: no connection to {constants.ENDPOINT}: {words}. {_AGAIN}")
