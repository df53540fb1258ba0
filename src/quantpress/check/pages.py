"""The card's numbers are those of results.json, in every language.

A page is laid out by templates and edited by people, so nothing is expected of its form but this: a table row names
the file, and the numbers are in the rows that do. A number of the page stands for a measured value if it is that value,
rounded to as many digits as are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from quantpress.check.books import Books
from quantpress.check.contents import is_page
from quantpress.check.finding import Finding, error
from quantpress.check.measured import unusable
from quantpress.sizes import human_size

__all__ = ["check"]

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\.gguf)", re.IGNORECASE)
_SHOWN = {"perplexity": 1, "kld_mean": 1, "same_top": 100}  # the last in percent
_NOTHING = Decimal("1e-6")
_AGAIN = "Run the same `quantpress release` again: it writes the page anew"


def check(books: Books) -> list[Finding]:
    """Findings about every README."""
    pages = sorted(name for name in books.entries if is_page(name) and (books.folder / name).is_file())
    if "README.md" not in books.entries:
        return [error("README.md", "no card: the release was not finished", _AGAIN)]
    return [finding for page in pages for finding in _page(books, page)]


def _page(books: Books, page: str) -> list[Finding]:
    text = (books.folder / page).read_text(encoding="utf-8", errors="replace")
    table = [unquote(" ".join(line.split())) for line in text.splitlines() if line.startswith("|")]
    found = []
    for row in books.rows.values():
        if unusable(row):  # which is told of results.json
            continue
        lines = [line for line in table if _names(line, row)]
        if not lines:
            found.append(error(page, f"{row['file']}: expected a row of the table, found none", _AGAIN))
        elif missing := _missing(" ".join(lines), row):
            found.append(error(page, f"{row['file']}: expected {', '.join(missing)}, found other numbers", _AGAIN))
    return found


def _names(line: str, row: Mapping[str, Any]) -> bool:
    """Whether a line is about a row's file, or the folder of its parts."""
    file = row["file"]
    names = [file, str(PurePosixPath(file).parent)] if row.get("split") else [file]
    return any(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", line) for name in names)


def _missing(line: str, row: Mapping[str, Any]) -> list[str]:
    """The values of a row that its lines do not show."""
    shown = [Decimal(number) for number in _NUMBER.findall(line)]
    missing = [] if human_size(row["bytes"]) in line else [human_size(row["bytes"])]
    for key, factor in _SHOWN.items():
        value = Decimal(repr(row[key])) * factor
        if not any(_rounded(value, number) for number in shown):
            missing.append(f"{key} {float(value):.6g}")
    return missing


def _rounded(value: Decimal, shown: Decimal) -> bool:
    """Whether a number of the page is the value, rounded: to an integer only where it is 0."""
    exponent = int(shown.as_tuple().exponent)
    if not shown or exponent >= 0:
        return abs(value) < _NOTHING and not shown
    return abs(value - shown) <= Decimal("0.5000001").scaleb(exponent)
