"""What people read of a release, made from its books: pictures, report, and the card in every language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantpress.card import write_card
from quantpress.files import digest
from quantpress.gguf import read
from quantpress.inputs import Base
from quantpress.pictures import draw
from quantpress.plan import Plan
from quantpress.report import write_report
from quantpress.run import Run

__all__ = ["write_pages"]


def write_pages(
    run: Run,
    base: Base,
    plans: Mapping[str, Plan],
    results: dict[str, Any],
    importance: Path,
    base_model: str | None,
) -> Path:
    """Write them into the release folder and enter them in release.json; returns README.md.

    `plans` by variant (stock ones are not drawn), `results` is results.json, `importance` the matrix, `base_model` the
    checkpoint's `user/name` on the Hub. Raises OutputError, DiskFullError.
    """
    pictures = draw(run, base, importance, plans, results)
    words: dict[str, Any] = {"imatrix": importance.name, "base_model": base_model, "pictures": pictures}
    report = write_report(run.folder, results, run.ledger.facts, pictures)
    with read(base.path) as model:
        cards = write_card(run.folder, results, run.ledger.facts, model, **words)
    run.ledger.record([*cards, report, run.folder / "results.json"], digest(["page", results]))
    return cards[0]
