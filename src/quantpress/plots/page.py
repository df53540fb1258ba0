"""What the pictures are drawn with: a page in points, y downwards; texts, boxes, lines; the file."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quantpress.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CARD", "INK", "PAD", "RULE", "SOFT", "cut", "draw_box", "draw_line", "draw_text", "heading",
    "new_page", "number", "overlay", "printable", "save", "settings", "text_width",
]  # fmt: skip

INK, SOFT, RULE, CARD = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
PAD = 22  # all lengths are in points, which are the SVG's user units


def new_page(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that is a card with rounded corners, and axes over all of it in points."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    page = overlay(figure)
    style = "round,pad=0,rounding_size=8"
    page.add_patch(FancyBboxPatch((1, 1), width - 2, height - 2, boxstyle=style, fc=CARD, ec=RULE, lw=1, gid="card"))
    return figure, page


def overlay(figure: Figure) -> Axes:
    """Axes over all of a figure in points, above what was added to it before."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), facecolor="none")
    axes.set_axis_off()
    return axes


def heading(page: Axes, width: float, title: str, facts: str, note: str) -> None:
    """The lines at the top: a title, facts at its right, a note below."""
    title = cut(printable(title), 15, width - 2 * PAD - (text_width(facts, 11) + 14 if facts else 0), bold=True)
    draw_text(page, PAD, 30, title, 15, bold=True, gid="title")
    if facts:
        draw_text(page, width - PAD, 31, facts, 11, SOFT, align="right", gid="facts")
    draw_text(page, PAD, 51, cut(note, 9, width - 2 * PAD), 9, SOFT, gid="note")


def draw_text(
    page: Axes,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    *,
    align: Literal["left", "center", "right"] = "left",
    bold: bool = False,
    turned: bool = False,
    gid: str | None = None,
) -> None:
    """A line of text as it is, no mathematics; `y` is its middle, `gid` its id in the SVG."""
    page.text(
        x, y if turned else y + 0.36 * size, printable(text), fontsize=size, color=colour, ha=align,
        va="center" if turned else "baseline", weight="bold" if bold else "normal", rotation=90 if turned else 0,
        parse_math=False, gid=gid and printable(gid),
    )  # fmt: skip


def draw_box(page: Axes, x: float, y: float, width: float, height: float, colour: str, gid: str | None = None) -> None:
    """A rectangle; `x`, `y` is its upper left corner."""
    from matplotlib.patches import Rectangle

    page.add_artist(Rectangle((x, y), width, height, fc=colour, ec="none", lw=0, gid=gid and printable(gid)))


def draw_line(page: Axes, x: tuple[float, float], y: tuple[float, float], colour: str, width: float = 1.2) -> None:
    """A line through points."""
    page.plot(x, y, color=colour, lw=width, solid_capstyle="butt")


@cache
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """The length of a line of text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(printable(text), font, ismath=False)[0])


def cut(text: str, size: float, room: float, *, bold: bool = False) -> str:
    """The text, or as much of it as there is room for."""
    if text_width(text, size, bold=bold) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle] + "…", size, bold=bold) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + "…"


def printable(text: str) -> str:
    """Names are text that anyone wrote: XML has no place for control characters."""
    return "".join(char if char.isprintable() else "�" for char in text)


def number(value: float) -> str:
    """Three digits and no exponent."""
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Fix matplotlib's defaults, whatever a user's matplotlibrc says, and what makes the same bytes every time."""
    import matplotlib

    fixed = {"svg.hashsalt": "quantpress", "svg.fonttype": "path", "font.family": ["DejaVu Sans"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that the font lacks is drawn as a box
        values: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"} | fixed
        with matplotlib.rc_context(values):
            yield


def save(figure: Figure, path: Path, *, png: bool) -> Path:
    """Write a figure as SVG, whole or not at all; `png`: beside it as PNG of the same name, two dots a point."""
    formats: list[tuple[Path, dict[str, Any]]] = [
        (path, {"format": "svg", "metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))})
    ]
    if png:
        formats.append((path.with_suffix(".png"), {"format": "png", "dpi": 144, "metadata": {"Software": None}}))
    for file, how in formats:
        buffer = io.BytesIO()
        figure.savefig(buffer, **how)
        write_bytes(file, buffer.getvalue())
    return path
