"""A release in other parts: files that are larger than their host takes, split, and all that names them made again.

    a model at a time: parts.py → results.json → pictures, report, pages

Measurements are kept, since the tensors are the same bytes. From its first file on until its pages are written,
release.json says so in `splitting`: a run that follows an interrupted one goes on, even if no file is too large any
more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from quantpress import gguf
from quantpress.card import pages
from quantpress.check.books import FACTS, RESULTS, Books, Model
from quantpress.errors import DiskFullError, InputError
from quantpress.files import file_digest, make_folder, write_bytes, write_json
from quantpress.inputs import Base
from quantpress.ledger import Ledger
from quantpress.measured import renew
from quantpress.pages import write_pages
from quantpress.parts import clear, in_parts, whole, writer_of
from quantpress.plan import read_plan
from quantpress.progress import SILENT, Progress
from quantpress.recipes import is_stock
from quantpress.run import Run, Settings

__all__ = ["resplit", "too_large"]

_AGAIN = "Run `quantpress release` again"
_MARK = "splitting"


def too_large(folder: Path, split_bytes: int) -> list[str]:
    """The models of a release, by their (first) file, that `resplit` would split: those that are here, and larger."""
    return [model.file for model in _too_large(Books.of(folder), split_bytes)]


def _too_large(books: Books, split_bytes: int) -> list[Model]:
    entered = [one for one in books.models if set(one.parts) <= books.entries.keys() - set(books.remote)]
    return [one for one in entered if any(books.entries[part]["bytes"] > split_bytes for part in one.parts)]


def resplit(folder: Path, split_bytes: int, *, progress: Progress = SILENT) -> None:
    """Split the models of a release that have a file of more than so many bytes; nothing happens if there is none.

    Needs the float model, which the pages are made from, and space for one more model. A page that was edited since it
    was made is kept in `work`. Raises InputError for a release that lacks the float model, is of another version, or
    has a file that is no longer what was measured; DiskFullError, PlanError for a tensor that is larger, OutputError.
    """
    models = _too_large(Books.of(folder), split_bytes)
    ledger = Ledger.reopened(folder / FACTS)
    if _MARK in ledger.facts:
        _renew_results(ledger)
    elif not models:
        return
    _run(ledger, progress)  # there is all that the pages need
    _check(folder, models, split_bytes)
    settings = ledger.facts["settings"]
    settings["split_bytes"] = ledger.facts[_MARK] = min(split_bytes, settings["split_bytes"])
    for model in models:
        _split([folder / part for part in model.parts], ledger, progress)
        _renew_results(ledger)
    _keep_edited(ledger, progress)
    _write_pages(*_run(ledger, progress))
    del ledger.facts[_MARK]
    ledger.save()


def _check(folder: Path, models: list[Model], split_bytes: int) -> None:
    """Raise PlanError for a tensor that is larger, DiskFullError without space for the largest model: before any work.

    One is removed before the next is split.
    """
    needed, free = 0, shutil.disk_usage(folder).free
    for one in models:
        with gguf.read(folder / one.file) as model:
            needed = max(needed, sum(writer_of(model, split_bytes).sizes))
    if needed > free:
        raise DiskFullError(folder, needed, free)


def _split(files: list[Path], ledger: Ledger, progress: Progress) -> None:
    """One model, if it is what was measured."""
    source = ledger.entries[files[0].relative_to(ledger.folder).as_posix()]["source"]
    if ledger.kept(source) != files:
        raise InputError(files[0], "SHA-256", expected="the bytes that were measured", found="others", hint=_AGAIN)
    in_parts(files, ledger.facts[_MARK], ledger, progress)


def _renew_results(ledger: Ledger) -> None:
    """Let results.json speak of the files that there are now, and remove those that there were before."""
    path = ledger.folder / RESULTS
    results = json.loads(path.read_text(encoding="utf-8"))
    for row in results["variants"].values():
        before = PurePosixPath(row["file"]).name
        parts = [file for file in ledger.files_of(whole(ledger.folder / row["file"])) if file not in ledger.unlisted]
        if parts:
            clear(parts, ledger)
            renew(row, parts, ledger, results.get("machine"))
        if results["base"]["file"] == before:
            results["base"]["file"] = PurePosixPath(row["file"]).name
    write_json(path, results)


def _run(ledger: Ledger, progress: Progress) -> tuple[Run, Base, dict[str, Any]]:
    """The run that made the release, as far as its pages depend on it; with the float model and results.json."""
    books, hint = Books.of(ledger.folder), f"{_AGAIN} with a smaller --split-gb: it only copies, too"
    if books.float_model is None or books.results is None:
        expected = "the float model and results.json, to write the pages from"
        raise InputError(ledger.folder, "release", expected=expected, found="a release without", hint=hint)
    machine = {"gpu_layers": books.results.get("machine", {}).get("gpu_layers", 0), "progress": progress}
    try:
        settings, _ = Settings(**books.settings), ledger.facts["base_model"]
    except (KeyError, TypeError) as error:
        expected = "what this version of quantpress writes"
        raise InputError(ledger.path, "facts", expected=expected, found=str(error), hint=hint) from error
    return Run(settings, machine, ledger), Base((books.float_model,), (), False), books.results


def _keep_edited(ledger: Ledger, progress: Progress) -> None:
    """Copy pages that somebody wrote in, before they are made again."""
    for path in (ledger.folder / page for page in pages()):
        if path.is_file() and (found := file_digest(path)) != ledger.sha256(path):
            copy = ledger.folder / "work" / f"edited-{found[:8]}-{path.name}"  # each is kept, whoever was interrupted
            make_folder(copy.parent)
            write_bytes(copy, path.read_bytes())
            progress.note(f"{path.name} was edited since it was made and is made again; yours is {copy}")


def _write_pages(run: Run, base: Base, results: dict[str, Any]) -> None:
    special = [name for name in results["variants"] if not is_stock(name)]
    with gguf.read(base.path) as model:
        plans = {name: read_plan(run.plan_file(base, name), model, extra=run.extra) for name in special}
    write_pages(run, base, plans, results, run.file(base, "imatrix"), run.ledger.facts["base_model"])
