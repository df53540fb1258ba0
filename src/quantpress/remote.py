"""GGUF files on the Hub of which nothing but the header is fetched, by ranges: some megabytes of one of gigabytes.

How long a header is stands nowhere: it ends with the list of the tensors, after a vocabulary of which each token says
its own length. So the first megabyte is read, and twice as much as often as the parser says that it goes on. It checks
counts, sizes and offsets against the file's size, which the Hub tells, as it does with a file here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.download import Head
from quantpress.errors import GGUFError, InputError
from quantpress.gguf import GGUF
from quantpress.gguf.parser import IncompleteError, ParsedFile, parse_start
from quantpress.gguf.reader import joined
from quantpress.hub import RemoteFile, Repository, hub_errors, listing

__all__ = ["RemoteRelease", "opened"]

_FIRST = 1 << 20
_MOST = 1 << 28  # no header of use is longer
_MAX_SMALL = 1 << 26


@dataclass(frozen=True)
class RemoteRelease:
    """The files of a repository at one commit."""

    repository: Repository
    commit: str
    files: dict[str, RemoteFile]

    def text(self, name: str) -> str:
        """The content of a small text file, UTF-8; raises InputError where it is none, CheckpointError, HubError."""
        size = self.files[name].size
        if size > _MAX_SMALL:
            raise InputError(self._path(name), "size", expected=f"at most {_MAX_SMALL:,} bytes", found=f"{size:,}")
        with hub_errors(self.repository, name):
            data = self._head(name).read(size)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InputError(self._path(name), "encoding", expected="UTF-8", found=error.reason) from error

    def header(self, name: str) -> GGUF:
        """The model whose first part this is, without its data (`GGUF.data` is not to be asked).

        Raises GGUFError for a malformed file and for parts that are missing or disagree, CheckpointError, HubError.
        """
        return joined(self._path(name), self._parse, lambda path: self._name(path) in self.files)

    def _parse(self, path: Path, part: int) -> ParsedFile:
        name = self._name(path)
        size, head, data = self.files[name].size, self._head(name), b""
        wanted = _FIRST
        while True:
            with hub_errors(self.repository, name):
                data += head.read(min(wanted, size) - len(data))
            try:
                return parse_start(path, data, size, part)
            except IncompleteError as more:
                wanted = max(2 * wanted, more.needed)
            if wanted > _MOST:
                raise GGUFError(path, "header", expected=f"at most {_MOST:,} bytes", found="a longer one")

    def _head(self, name: str) -> Head:
        from huggingface_hub import hf_hub_url

        return Head(hf_hub_url(self.repository.id, name, revision=self.commit), self.files[name].size)

    def _path(self, name: str) -> Path:
        return Path(self.repository.id) / name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.repository.id).as_posix()


def opened(repository: str) -> RemoteRelease:
    """The files of `user/name` or `user/name@revision`; raises CheckpointError where it cannot be read, HubError."""
    wanted = Repository.parse(repository)
    commit, files = listing(wanted)
    return RemoteRelease(wanted, commit, files)
