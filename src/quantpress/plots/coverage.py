"""What an importance matrix saw of each weight: rows are roles in the order of the computation, columns are layers.

Colour is tokens, in steps of four from the fewest that are enough: four times the tokens halve the error of a column's
mean square, which is √(2/n) of it for normally distributed inputs. A cell of a mixture of experts is divided among them
by what they saw, the fewest at the bottom: the share that is starved shows, where strips in the order of 128 experts
would be noise. What saw too little is never thinner than can be seen.

Light to dark is what is enough; too few is lighter than any of it, none is darker: the steps are told apart by their
lightness alone, whatever colours someone sees. A weight without an entry is crossed out.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.errors import InputError
from quantpress.plots.grid import Grid, Row, draw_layers, draw_role, place, role_and_layer
from quantpress.plots.page import (
    CARD,
    INK,
    PAD,
    RULE,
    SOFT,
    cut,
    draw_box,
    draw_line,
    draw_text,
    heading,
    new_page,
    number,
    save,
    settings,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quantpress.imatrix import Audit

__all__ = ["coverage"]

_STEPS = ("none", "few", "x1", "x4", "x16", "x64")
_COLOURS = ("#161a20", "#ffd84d", "#93c0e0", "#5c9bca", "#2f73ad", "#174878")
_MISSING = "#c0392b"
_THIN = 2.0  # points: the least height of what saw too little
_SEAM = 0.8  # and the white line above it


@dataclass(frozen=True)
class _Cell:
    name: str
    tokens: tuple[int, ...] | None  # of each matrix; None: no entry


_Grid = Grid[_Cell]
_Row = Row[_Cell]


def coverage(audit: Audit, path: Path, *, title: str, png: bool = False) -> Path:
    """Draw how many tokens each weight of an importance matrix saw, and which of a model's it lacks; return `path`.

    The steps are of the audit's `min_tokens`; an audit without a model knows of no weights that are lacking. `title`
    is the file's name; `png`: draw it beside as PNG too. Raises OutputError, InputError for an audit of nothing.
    """
    cells = {name: _Cell(name, tokens) for name, tokens in audit.tokens.items()}
    cells |= {name: _Cell(name, None) for name in audit.missing or ()}
    if not cells:
        raise InputError(None, "importance matrix", expected="entries to draw", found="none")
    with settings():
        return save(_figure(audit, cells, title), path, png=png)


def _figure(audit: Audit, cells: dict[str, _Cell], title: str) -> Figure:
    experts = {role_and_layer(name)[0] for name, tokens in audit.tokens.items() if len(tokens) > 1}
    grid = place(cells, beside=178 if experts else 138, tall=experts)
    figure, page = new_page(grid.width, grid.bottom + 110)
    parted = "; a cell of experts is divided by theirs, the fewest at the bottom" if experts else ""
    heading(page, grid.width, title, _facts(audit), f"tokens that each weight saw, by role and layer{parted}")
    least = max(1, audit.min_tokens)
    _draw_heads(page, grid, least)
    for row in grid.rows:
        draw_role(page, grid, row)
        for layer, cell in row.cells.items():
            _draw_cell(page, grid, row, layer, cell, least)
        _draw_numbers(page, grid, row, least)
    draw_layers(page, grid)
    _draw_legend(page, grid, audit, least)
    return figure


def _facts(audit: Audit) -> str:
    """How many tokens of which text; only the texts' names, as a picture is published."""
    tokens = max((max(seen) for seen in audit.tokens.values()), default=0)
    names = [Path(name).name for name in audit.datasets]
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return f"{tokens:,} tokens" + (f" · {cut(names[0], 11, 220)}{more}" if names else "")


def _step(tokens: int, least: int) -> int:
    """Which of the steps a number of tokens is in."""
    return bisect_right(_bounds(least), tokens)


def _bounds(least: int) -> list[int]:
    """Where the steps after the first begin."""
    return [1, least, 4 * least, 16 * least, 64 * least]


def _draw_cell(page: Axes, grid: _Grid, row: _Row, layer: int | None, cell: _Cell, least: int) -> None:
    x, width = grid.span(layer)
    if cell.tokens is None:
        _draw_missing(page, x, row.y, width, row.height, f"missing-{cell.name}")
        return
    bottom = row.y + row.height
    parts = _parts(cell.tokens, least, row.height)
    for step, top in reversed(parts):  # each reaches down behind those with fewer tokens: no seam shows
        if step < 2 and top < row.height:
            draw_box(page, x, bottom - top - _SEAM, width, _SEAM, CARD)  # but for what saw too little
        draw_box(page, x, bottom - top, width, top, _COLOURS[step], gid=f"{_STEPS[step]}-{cell.name}")


def _parts(tokens: Sequence[int], least: int, height: float) -> list[tuple[int, float]]:
    """The steps that matrices are in, from the fewest tokens, and how far up each reaches."""
    counts = Counter(_step(seen, least) for seen in tokens)
    heights = {
        step: max(height * count / len(tokens), _THIN if step < 2 else 0) for step, count in sorted(counts.items())
    }
    largest = max(heights, key=heights.__getitem__)
    heights[largest] -= sum(heights.values()) - height
    reached, parts = 0.0, []
    for step, part in heights.items():
        reached += part
        parts.append((step, reached))
    return parts


def _draw_missing(page: Axes, x: float, y: float, width: float, height: float, gid: str | None = None) -> None:
    """A cell that is crossed out."""
    draw_box(page, x, y, width, height, _MISSING, gid=gid)
    draw_box(page, x + 1, y + 1, width - 2, height - 2, CARD)
    draw_line(page, (x + 1, x + width - 1), (y + 1, y + height - 1), _MISSING)
    draw_line(page, (x + 1, x + width - 1), (y + height - 1, y + 1), _MISSING)


def _draw_heads(page: Axes, grid: _Grid, least: int) -> None:
    draw_text(page, grid.right + 76, grid.top - 12, "fewest tokens", 8.5, SOFT, align="right")
    draw_text(page, grid.right + 90, grid.top - 12, f"below {least:,}", 8.5, SOFT)


def _draw_numbers(page: Axes, grid: _Grid, row: _Row, least: int) -> None:
    """The fewest tokens that a matrix of a row saw, and how many saw too few."""
    seen = [tokens for cell in row.cells.values() for tokens in cell.tokens or ()]
    if not seen:
        return
    few = sum(tokens < least for tokens in seen)
    colour = INK if few else SOFT
    draw_text(page, grid.right + 76, row.middle, f"{min(seen):,}", 8.5, colour, align="right", bold=bool(few))
    text = f"{few:,} of {len(seen):,}" if few else "none"
    draw_text(page, grid.right + 90, row.middle, text, 8.5, colour, bold=bool(few), gid=f"below-{row.role}")


def _draw_legend(page: Axes, grid: _Grid, audit: Audit, least: int) -> None:
    """The steps with the error that is left at their beginnings, and what a cross is."""
    y, bounds = grid.bottom + 42, _bounds(least)
    draw_line(page, (PAD, grid.width - PAD), (y - 16, y - 16), RULE)
    draw_text(page, PAD, y, "tokens", 8.5, SOFT)
    draw_text(page, PAD, y + 18, "error", 8.5, SOFT)
    draw_text(page, PAD + 44, y + 18, "of a column's mean square", 8.5, SOFT)
    names = ["none", f"1 to {least - 1:,}" if least > 2 else "1", *(f"from {bound:,}" for bound in bounds[1:])]
    width = max(66.0, *(text_width(name, 8.5) + 14 for name in names))
    for step, name in enumerate(names):
        if step == 1 and least == 1:  # one token is enough
            continue
        x = PAD + 44 + width * step
        draw_box(page, x, y - 8, width, 16, _COLOURS[step], gid=f"step-{_STEPS[step]}")
        draw_text(page, x + width / 2, y, name, 8.5, INK if step in (1, 2, 3) else CARD, align="center")
        if step > 1:
            error = f"± {number(round(100 * math.sqrt(2 / bounds[step - 1]), 1))} %"
            draw_text(page, x + width / 2, y + 18, error, 8.5, SOFT, align="center")
    _draw_missing(page, PAD + 44, y + 36, 16, 14)
    draw_text(page, PAD + 66, y + 43, cut(_lacking(audit), 8.5, grid.width - 2 * PAD - 66), 8.5, SOFT, gid="missing")


def _lacking(audit: Audit) -> str:
    """What the cross says."""
    if audit.missing is None:
        return "no entry: not known without the model"
    if not audit.missing:
        return "no entry: none, every weight of the model is covered"
    weights = "a weight" if len(audit.missing) == 1 else f"{len(audit.missing):,} weights"
    return f"no entry for {weights} of the model: {', '.join(audit.missing)}"
