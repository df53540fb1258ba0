"""What a release says of itself: release.json and results.json, and the models that follow from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from quantpress.errors import InputError
from quantpress.names import first_part, part_files

__all__ = ["FACTS", "PRIVATE", "RESULTS", "Books", "Model"]

FACTS, RESULTS = "release.json", "results.json"
PRIVATE = "work/"  # what a release is made from: not published, and free to be removed

_NO_RELEASE = "Give the folder that `quantpress release --out` has made"


@dataclass(frozen=True)
class Model:
    """A model by its paths in the folder: `file`, of a split one the first of its `parts`."""

    file: str
    parts: tuple[str, ...]

    @property
    def split(self) -> bool:
        """Whether it lies in several files."""
        return len(self.parts) > 1


@dataclass(frozen=True)
class Books:
    """`facts` is release.json, `entries` what it says of every file that is to be published.

    `results` is results.json, None where there is none that can be read.
    """

    folder: Path
    facts: dict[str, Any]
    entries: dict[str, dict[str, Any]]
    results: dict[str, Any] | None

    @staticmethod
    def of(folder: Path) -> Books:
        """Those of a folder; raises InputError if it has no usable release.json."""
        facts = _object(folder / FACTS)
        if facts is None:
            found = "none that can be read" if (folder / FACTS).exists() else "none"
            raise InputError(folder / FACTS, "file", expected="a JSON object", found=found, hint=_NO_RELEASE)
        files = facts.get("files")
        if not isinstance(files, dict) or not files:
            raise InputError(folder / FACTS, "files", expected="the release's files", found=files, hint=_NO_RELEASE)
        for name, entry in files.items():
            if not _inside(name) or not _valid(entry):
                expected = "a path inside the folder, with its bytes and SHA-256"
                raise InputError(folder / FACTS, f"files: {name}", expected=expected, found=entry, hint=_NO_RELEASE)
        entries = {name: entry for name, entry in files.items() if not name.startswith(PRIVATE)}
        return Books(folder, facts, entries, _object(folder / RESULTS))

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of results.json by variant, as far as they can be used."""
        variants = (self.results or {}).get("variants")
        rows = variants if isinstance(variants, dict) else {}
        return {name: row for name, row in rows.items() if isinstance(row, dict) and isinstance(row.get("file"), str)}

    @property
    def settings(self) -> dict[str, Any]:
        """How the release was made."""
        found = self.facts.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def variants(self) -> list[str]:
        """What the release was asked for."""
        found = self.settings.get("variants")
        return [str(name) for name in found] if isinstance(found, list) else []

    @property
    def model(self) -> str:
        """The name that the files begin with; empty where results.json does not say."""
        return str((self.results or {}).get("model", ""))

    @cached_property
    def models(self) -> list[Model]:
        """The models to be published, whether all of their parts are there or not."""
        others = set(self.imatrices) | {name for name in self.entries if Path(name).name.startswith("mmproj")}
        names = [name for name in self.entries if name.endswith(".gguf") and name not in others]
        firsts = dict.fromkeys(map(first_part, names))
        return [Model(first, tuple(path.as_posix() for path in part_files(first))) for first in firsts]

    @property
    def imatrices(self) -> list[str]:
        """The importance matrices to be published."""
        return [name for name in self.entries if name.endswith("-imatrix.gguf")]

    @cached_property
    def remote(self) -> list[str]:
        """Files that a streaming run sent to the Hub and removed here."""
        return [name for name, entry in self.entries.items() if entry.get("remote") and not self._here(name)]

    def _here(self, name: str) -> bool:
        return (self.folder / name).is_file()

    @property
    def float_model(self) -> Path | None:
        """The unquantized model, where it is in the folder: published, or in the work folder."""
        base = (self.results or {}).get("base")
        wanted = base.get("file") if isinstance(base, dict) else None
        names = [name for name in self.facts["files"] if PurePosixPath(name).name == wanted]
        return next((self.folder / name for name in names if self._here(name)), None)


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file, None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _valid(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
