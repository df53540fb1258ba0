"""Every file that is here is what release.json says it is, and no other file lies in the folder."""

from __future__ import annotations

import os
from pathlib import Path

from quantpress.check.books import FACTS, PRIVATE, Books
from quantpress.check.finding import Finding, error, note, warning
from quantpress.errors import InputError
from quantpress.files import file_digest
from quantpress.progress import Progress
from quantpress.sizes import human_size

__all__ = ["damaged", "remote", "strangers"]

_HALF_WRITTEN = (".partial", ".incomplete", ".tmp", ".part")
_WELCOME = {FACTS, ".gitattributes", "LICENSE", "LICENSE.txt", "LICENSE.md"}
_SKIPPED = {PRIVATE.rstrip("/"), ".cache", ".git"}  # .cache: huggingface_hub's notes beside what it downloads
_AGAIN = "Run the same `quantpress release` again: it makes what is missing or damaged"


def damaged(books: Books, progress: Progress) -> dict[str, Finding]:
    """A finding for each file, by name, that is missing or has other bytes than those recorded.

    Those on the Hub only are left out.
    """
    found = {}
    here = {name: entry for name, entry in books.entries.items() if name not in books.remote}
    with progress.task("check", sum(entry["bytes"] for entry in here.values()), "bytes") as advance:
        for name, entry in here.items():
            what = _fault(books.folder / name, entry["bytes"], entry["sha256"])
            advance(entry["bytes"])
            if what is None:
                continue
            if is_page(name) and (books.folder / name).is_file():
                found[name] = note(name, "edited since it was made", "Its numbers are compared with results.json")
            else:
                found[name] = error(name, what, _AGAIN)
    return found


def remote(books: Books) -> list[Finding]:
    """That some files are on the Hub only, whose bytes cannot be looked at here."""
    if not books.remote:
        return []
    size = human_size(sum(books.entries[name]["bytes"] for name in books.remote))
    what = f"{len(books.remote)} files ({size}) are on the Hub only: each was loaded and measured before it was sent"
    return [note(FACTS, what, "`publish` compares their hashes with those there")]


def is_page(name: str) -> bool:
    """Whether it is a card, in whatever language: README.md, README.zh.md. People add to it by hand."""
    return name.startswith("README") and name.endswith(".md")


def strangers(books: Books) -> list[Finding]:
    """A finding for each file of the folder that is half-written or that the release does not know."""
    unlisted = books.facts.get("unlisted")
    earlier = unlisted.keys() if isinstance(unlisted, dict) else set()
    found = []
    for name in _files(books.folder):
        if name.endswith(_HALF_WRITTEN):
            found.append(error(name, "half-written", "Wait for what writes it; or, if nothing does, remove it"))
        elif name in earlier:
            found.append(warning(name, "made by an earlier run, no part of this release", "Remove it"))
        elif name not in books.entries and name not in _WELCOME:
            found.append(warning(name, "not known to release.json", "Remove it: nothing vouches for its content"))
    if (books.folder / "preset.ini").exists():
        found.append(error("preset.ini", "llama-server -hf reads this file alone and no model", "Remove it"))
    return found


def _files(folder: Path) -> list[str]:
    found = []
    for parent, folders, files in os.walk(folder):
        top = Path(parent) == folder
        folders[:] = sorted(name for name in folders if not (top and name in _SKIPPED))
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in sorted(files)]
    return found


def _fault(path: Path, size: int, sha256: str) -> str | None:
    if not path.is_file():
        return "missing"
    if (found := path.stat().st_size) != size:
        return f"{found:,} bytes, {size:,} were written"
    try:
        return None if file_digest(path) == sha256 else "its bytes are not those that were written: SHA-256 differs"
    except InputError as problem:
        return str(problem)
