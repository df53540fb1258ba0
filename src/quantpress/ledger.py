"""What a release has made so far: the hash of every file and of what it was made from.

A resumed run keeps a file only if both still match; so a changed setting, text or source redoes what depends on it,
and a damaged file is made again. What an earlier run made and this one does not ask for is left where it is, but is
no part of the release: it moves from `files` to `unlisted`, from where a later run may take it up again.

A file that was sent to the Hub and removed here (stream.py) has `remote` in its entry. It is kept while the Hub has it
with its hash; a run that does not ask the Hub knows of no such file, and makes it again.

One whose tensors were in other files before (parts.py) has their hashes in `earlier`: a list for each time. One that
was encoded with second moments says in `compensated` how many matrices were, and which tensors were not worth it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantpress.files import file_digest, make_folder, write_json

__all__ = ["Ledger"]

_ENTRY = {"bytes": int, "sha256": str, "source": str, "made_together": int}
_MORE = ("earlier", "compensated")


class Ledger:
    """The files of a release folder, kept in its release.json; `facts` is what else that file says.

    `there`: the SHA-256 of the files that the Hub has of this release, by name. `gone`: what was sent and is not there.
    """

    def __init__(self, path: Path, there: Mapping[str, str | None] | None = None) -> None:
        self.path, self.folder = path, path.parent
        self.facts: dict[str, Any] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.listed: set[str] = set()
        self.gone: list[str] = []
        for key, entry in _read(path).items():
            if (self.folder / key).is_file():
                self.entries[key] = {field: entry[field] for field in (*_ENTRY, *_MORE) if field in entry}
            elif entry.get("remote") and (there or {}).get(key) == entry["sha256"]:
                self.entries[key] = entry
            elif entry.get("remote"):
                self.gone.append(key)

    @classmethod
    def reopened(cls, path: Path) -> Ledger:
        """The books of a finished run as they are, its facts and what is on the Hub included."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        entries = {**saved.get("unlisted", {}), **saved["files"]}
        ledger = cls(path, {key: entry.get("sha256") for key, entry in entries.items()})
        ledger.facts = {key: value for key, value in saved.items() if key not in ("files", "unlisted")}
        ledger.listed = saved["files"].keys() & ledger.entries.keys()
        return ledger

    def kept(self, source: str) -> list[Path]:
        """The files that were made from `source` (a digest), if all of them are still what was made; else none.

        Some may be on the Hub only: see `remote`.
        """
        entries = {key: entry for key, entry in self.entries.items() if entry["source"] == source}
        whole = all(entry["made_together"] == len(entries) for entry in entries.values())
        if not whole or not all(self._matches(key) for key in entries):
            return []
        self.listed.update(entries)
        return [self.folder / key for key in sorted(entries)]

    def record(self, files: Sequence[Path], source: str, **more: Any) -> None:
        """Enter files that were just made from `source`, and save."""
        for file in files:
            content = {"bytes": file.stat().st_size, "sha256": file_digest(file)}
            self.entries[self._key(file)] = {**content, "source": source, "made_together": len(files), **more}
            self.listed.add(self._key(file))
        self.save()

    def replace(self, files: Sequence[Path], others: Sequence[Path]) -> None:
        """Enter other files that hold the tensors of kept ones in their place, and save."""
        earlier, hashes = self.earlier(files[0]), [self.sha256(file) for file in files]
        gone = [self.entries.pop(self._key(file)) for file in files]
        self.listed -= {self._key(file) for file in files}
        kept = {"compensated": gone[0]["compensated"]} if "compensated" in gone[0] else {}
        self.record(others, gone[0]["source"], earlier=[*earlier, hashes], **kept)

    def earlier(self, file: Path) -> list[list[str]]:
        """The hashes of the files that had its tensors before, the first ones first."""
        return list(self.entries[self._key(file)].get("earlier", ()))

    def origin(self, files: Sequence[Path]) -> tuple[str, ...]:
        """The hashes of a kept model's files as they were first made."""
        first = [self.sha256(file) for file in files]
        return tuple((*self.earlier(files[0]), first)[0])

    def moved(self, files: Sequence[Path], folder: Path) -> list[Path]:
        """Put kept files into a folder of the release, if they are not there yet; returns where they are now."""
        targets = [folder / file.name for file in files]
        for file, target in zip(files, targets, strict=True):
            if file == target:
                continue
            make_folder(folder)
            file.replace(target)
            self.entries[self._key(target)] = self.entries.pop(self._key(file))
            self.listed = self.listed - {self._key(file)} | {self._key(target)}
        return targets

    def sent(self, file: Path) -> None:
        """Enter that the Hub has a file, save, and remove it here."""
        self.entries[self._key(file)]["remote"] = True
        self.save()
        file.unlink()

    def files_of(self, first: Path) -> list[Path]:
        """What is entered of a file that may have been split: itself, or parts in a folder of its name."""
        key = self._key(first)
        folder = f"{key.removesuffix(first.suffix)}/"
        return [self.folder / entered for entered in self.entries if entered == key or entered.startswith(folder)]

    def sha256(self, file: Path) -> str:
        """The recorded hash of a file that is kept or was just made."""
        return str(self.entries[self._key(file)]["sha256"])

    def bytes(self, file: Path) -> int:
        """The recorded size of a file that is kept or was just made."""
        return int(self.entries[self._key(file)]["bytes"])

    def compensated(self, file: Path) -> dict[str, Any] | None:
        """What is known of a file's compensated encoding; None where it was encoded plainly."""
        return self.entries[self._key(file)].get("compensated")

    def remote(self, file: Path) -> bool:
        """Whether a file is on the Hub and no longer here."""
        return "remote" in self.entries[self._key(file)]

    @property
    def unlisted(self) -> list[Path]:
        """What earlier runs made and left here that is no part of this release."""
        unlisted = sorted(self.entries.keys() - self.listed)
        return [self.folder / key for key in unlisted if "remote" not in self.entries[key]]

    def save(self) -> None:
        """Write release.json."""
        entries = sorted(self.entries.items())
        files = {key: entry for key, entry in entries if key in self.listed}
        unlisted = {key: entry for key, entry in entries if key not in self.listed}
        write_json(self.path, {**self.facts, "files": files, "unlisted": unlisted})

    def _matches(self, key: str) -> bool:
        file, entry = self.folder / key, self.entries[key]
        if "remote" in entry:
            return True
        return file.is_file() and file.stat().st_size == entry["bytes"] and file_digest(file) == entry["sha256"]

    def _key(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a release.json; a damaged one vouches for nothing, and everything is made again."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    groups = [saved.get(group) for group in ("files", "unlisted")] if isinstance(saved, dict) else []
    entries = [item for group in groups if isinstance(group, dict) for item in group.items()]
    return {key: entry for key, entry in entries if _valid(entry)}


def _valid(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(field), kind) for field, kind in _ENTRY.items())
        and isinstance(entry.get("earlier", []), list)
    )
