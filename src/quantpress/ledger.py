"""What a release has made so far: the hash of every file and of what it was made from.

A resumed run keeps a file only if both still match; so a changed setting, text or source redoes what depends on it,
and a damaged file is made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantpress.files import file_digest, write_json

__all__ = ["Ledger"]


def _matches(file: Path, entry: dict[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == entry["bytes"] and file_digest(file) == entry["sha256"]


class Ledger:
    """The files of a release folder, kept in its release.json under `files`; `facts` is what else that file says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self.facts: dict[str, Any] = {}
        self.files: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.files = json.loads(path.read_text(encoding="utf-8"))["files"]
            except (ValueError, KeyError, TypeError):
                self.files = {}  # a damaged ledger vouches for nothing: all is made again
        self.files = {key: entry for key, entry in self.files.items() if (self.folder / key).is_file()}

    def kept(self, source: str) -> list[Path]:
        """The files that were made from `source` (a digest), if all of them are still what was made; else none."""
        entries = {key: entry for key, entry in self.files.items() if entry["source"] == source}
        whole = all(entry["made_together"] == len(entries) for entry in entries.values())
        files = [self.folder / key for key in sorted(entries)]
        return files if whole and all(_matches(file, self.files[self._key(file)]) for file in files) else []

    def record(self, files: Sequence[Path], source: str) -> None:
        """Enter files that were just made from `source`, and save."""
        for file in files:
            content = {"bytes": file.stat().st_size, "sha256": file_digest(file)}
            self.files[self._key(file)] = {**content, "source": source, "made_together": len(files)}
        self.save()

    def sha256(self, file: Path) -> str:
        """The recorded hash of a file that is kept or was just made."""
        return str(self.files[self._key(file)]["sha256"])

    def save(self) -> None:
        """Write release.json."""
        write_json(self.path, {**self.facts, "files": dict(sorted(self.files.items()))})

    def _key(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()
