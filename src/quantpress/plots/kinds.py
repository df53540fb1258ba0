"""What kinds of files a release has, and how the pictures tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from quantpress.plots.page import CARD, PAD, SOFT, draw_line, draw_text, text_width
from quantpress.recipes import MIXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["STYLES", "Kind", "draw_cross", "draw_kinds", "draw_marker", "kind_of"]

Kind = Literal["mix", "auto", "other"]

# Colour, marker, name; colours of Okabe and Ito, safe for every colour vision, and shapes besides.
STYLES: dict[Kind, tuple[str, str, str]] = {
    "mix": ("#d55e00", "s", "stock mixes"),
    "auto": ("#0072b2", "o", "automatic plans"),
    "other": ("#6e7781", "D", "other files"),
}


def kind_of(name: str, row: Mapping[str, Any]) -> Kind:
    """The kind of a variant, given its row of results.json."""
    if "allocation" in row:
        return "auto"
    return "mix" if name in MIXES else "other"


def draw_marker(axes: Axes, x: float, y: float, kind: Kind, gid: str | None = None) -> None:
    """A file's marker: filled for automatic plans, hollow for the others."""
    colour, marker, _ = STYLES[kind]
    inside = colour if kind == "auto" else CARD
    axes.plot([x], [y], ls="", marker=marker, ms=6, mfc=inside, mec=colour, mew=1.5, gid=gid)


def draw_cross(axes: Axes, x: float, y: float, kind: Kind, gid: str | None = None) -> None:
    """A cross over a file's marker: it is beaten."""
    colour = CARD if kind == "auto" else STYLES[kind][0]
    axes.plot([x], [y], ls="", marker="x", ms=5, mec=colour, mew=1.2, gid=gid)


def draw_kinds(page: Axes, kinds: Iterable[Kind], y: float, *, line: bool = False, crossed: Kind | None = None) -> None:
    """The legend, a line of text: the kinds that there are, and what a cross over one of them means."""
    known, x = set(kinds), PAD + 6.0
    for kind in (kind for kind in STYLES if kind in known):
        if line and kind == "auto":
            draw_line(page, (x - 6, x + 6), (y, y), STYLES[kind][0])
        draw_marker(page, x, y, kind)
        draw_text(page, x + 11, y, STYLES[kind][2], 9.5)
        x += 11 + text_width(STYLES[kind][2], 9.5) + 24
    if crossed:
        draw_marker(page, x, y, crossed)
        draw_cross(page, x, y, crossed)
        draw_text(page, x + 11, y, "larger and worse than another file", 9.5, SOFT)
