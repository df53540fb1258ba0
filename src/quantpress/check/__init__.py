"""What is wrong with a release folder, before anybody downloads it: the gate in front of `publish`.

A check a module, each a function from the release to findings; none stops at the first. A file whose bytes are not
those that release.json vouches for is reported once, and not looked at any further. One that is on the Hub only, since
`release --stream` sent it and removed it here, is known by its name and its numbers alone.
"""

from __future__ import annotations

from pathlib import Path

from quantpress.check import contents, headers, labels, loads, measured, pages, templates
from quantpress.check.books import Books
from quantpress.check.finding import Finding
from quantpress.progress import SILENT, Progress

__all__ = ["Finding", "check"]


def check(
    folder: str | Path,
    *,
    fast: bool = False,
    checkpoint: str | Path | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    progress: Progress = SILENT,
) -> list[Finding]:
    """What is wrong with a release, or worth knowing: errors first, then warnings, then notes.

    Args:
        folder: what `release` made.
        fast: do not load the files in llama.cpp.
        checkpoint: the checkpoint's folder, to compare the chat template with; default the release's float model.
        threads: CPU threads of llama.cpp, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all.
        progress: told of the files that are hashed and loaded.

    Raises InputError if the folder is no release, CheckpointError for a `checkpoint` that cannot be read.
    """
    books = Books.of(Path(folder))
    damaged = contents.damaged(books, progress)
    sound = [model for model in books.models if not {*damaged, *books.remote} & set(model.parts)]
    opened, malformed = headers.opened(books, sound)
    found = [
        *contents.strangers(books),
        *contents.remote(books),
        *damaged.values(),
        *malformed,
        *labels.check(books, books.models),
        *headers.check(books, opened),
        *headers.imatrices(books, opened, [name for name in books.imatrices if name not in damaged]),
        *templates.check(books, opened, None if checkpoint is None else Path(checkpoint)),
        *measured.check(books, books.models),
        *pages.check(books),
    ]
    if not fast:
        found += loads.check(books, list(opened), threads, gpu_layers, progress)
    return sorted(found, key=lambda finding: finding.rank)
