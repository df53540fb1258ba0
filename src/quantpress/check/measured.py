"""The numbers belong to the bytes: a row of results.json for every file, measured on what release.json vouches for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from quantpress.check.books import RESULTS, Books, Model
from quantpress.check.finding import Finding, error

__all__ = ["check", "unusable"]

_NUMBERS = ("bytes", "bits_per_weight", "perplexity", "kld_mean", "same_top")
_AGAIN = "Run the same `quantpress release` again: it measures what was not measured"


def check(books: Books, models: Sequence[Model]) -> list[Finding]:
    """Findings about the rows and the files that they are for."""
    if books.results is None:
        return [error(RESULTS, "missing or no JSON object: nothing was measured", _AGAIN)]
    wanted = [name for name in books.variants if name not in books.rows]
    found = [error(RESULTS, f"{name}: expected a row, found none", _AGAIN) for name in wanted]
    measured = {row["file"] for row in books.rows.values()}
    by_file = {model.file: model for model in models}
    unmeasured = [file for file in by_file if file not in measured]
    found += [error(file, "no row in results.json: not measured", _AGAIN) for file in unmeasured]
    for name, row in books.rows.items():
        found += _row(books, name, row, by_file.get(row["file"]))
    return found


def _row(books: Books, name: str, row: dict[str, Any], model: Model | None) -> list[Finding]:
    file = row["file"]
    if model is None:
        return [error(file, f"a row of results.json ({name}), but no file that release.json knows", _AGAIN)]
    entries = [books.entries[part] for part in model.parts if part in books.entries]
    if row.get("sha256") != [entry["sha256"] for entry in entries]:
        return [error(file, "results.json has numbers that were measured on other bytes", _AGAIN)]
    bad = unusable(row)
    found = [error(file, f"results.json: {key}: expected a number, found {row.get(key)}", _AGAIN) for key in bad]
    if "bytes" not in bad and row["bytes"] != (total := sum(entry["bytes"] for entry in entries)):
        found.append(error(file, f"results.json: bytes: expected {total:,}, found {row['bytes']:,}", _AGAIN))
    return found


def unusable(row: dict[str, Any]) -> list[str]:
    """The values of a row that should be numbers and are not."""
    return [key for key in _NUMBERS if not _finite(row.get(key))]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
