"""File size against KL divergence, on a log axis because a bit more a weight divides the divergence by about four.

Points without a divergence above 0 (the unquantized model) have no place on such an axis and would stretch the other:
they are named in a note below and not drawn. A dotted line goes from each other file to the line of the automatic ones
at the same size: the reader sees the gap, and no number stands there that was not measured. A file that is
beaten by a smaller one is crossed out: there is no reason to take it but speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import InputError
from quantpress.plots.kinds import STYLES, Kind, draw_cross, draw_kinds, draw_marker
from quantpress.plots.page import (
    PAD,
    SOFT,
    cut,
    draw_line,
    draw_text,
    heading,
    new_page,
    number,
    overlay,
    printable,
    save,
    settings,
    text_width,
)
from quantpress.sizes import DECIMAL, human_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Point", "frontier"]

_POWERS = {10**9: " (10⁹ bytes)", 10**6: " (10⁶ bytes)", 10**3: " (10³ bytes)"}
_WIDTH, _HEIGHT = 860, 560
_NEAR = 16  # a name no further from its point needs no line to it
_AREA = (72, 92, 816, 488)  # left, top, right, bottom of the axes


@dataclass(frozen=True)
class Point:
    """A file on the frontier: `bytes` of the file, mean KL divergence and its standard error in nats a token."""

    name: str
    bytes: int
    kld: float
    error: float
    kind: Kind
    beaten: bool = False  # there is a file that is smaller and closer to the original


def frontier(points: Sequence[Point], path: Path, *, title: str | None = None, png: bool = False) -> Path:
    """Draw size against divergence and return `path`; raises OutputError, InputError without a point to draw.

    `png`: draw it beside as PNG too.
    Points whose divergence is 0 or below, or not finite, are named in a note and not drawn.
    """
    drawn = [point for point in points if 0 < point.kld < math.inf]
    if not drawn:
        raise InputError(None, "points", expected="one with a divergence above 0", found=f"none in {len(points)}")
    with settings():
        return save(_frontier_figure(points, drawn, title), path, png=png)


def _frontier_figure(points: Sequence[Point], drawn: Sequence[Point], title: str | None) -> Figure:
    figure, page = new_page(_WIDTH, _HEIGHT)
    note = "lower and further left is better; bars are standard errors"
    heading(page, _WIDTH, title or "Size and divergence", "", note)
    crossed = next((point.kind for point in drawn if point.beaten), None)
    draw_kinds(page, (point.kind for point in drawn), 74, line=True, crossed=crossed)
    axes, unit = _axes(figure, drawn)
    line = sorted((point for point in drawn if point.kind == "auto"), key=lambda point: point.bytes)
    axes.plot([p.bytes / unit for p in line], [p.kld for p in line], color=STYLES["auto"][0], lw=1.4, gid="auto-line")
    _draw_gaps(axes, drawn, line, unit)
    for i, point in enumerate(drawn):
        _draw_point(axes, point, unit, f"point-{i}-{point.name}")
        if point.beaten:
            draw_cross(axes, point.bytes / unit, point.kld, point.kind, printable(f"beaten-{i}-{point.name}"))
    _draw_names(overlay(figure), axes, drawn, line, unit)
    left_out = [f"{point.name} ({human_size(point.bytes)})" for point in points if point not in drawn]
    if left_out:
        note = cut(f"not drawn, as their divergence is not above 0: {', '.join(left_out)}", 8.5, _WIDTH - 2 * PAD)
        draw_text(page, PAD, _HEIGHT - 16, note, 8.5, SOFT, gid="left-out")
    return figure


def _axes(figure: Figure, points: Sequence[Point]) -> tuple[Axes, int]:
    """Axes with limits that hold all points, and the bytes in a unit of x."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    left, top, right, bottom = _AREA
    place = (left / _WIDTH, 1 - bottom / _HEIGHT, (right - left) / _WIDTH, (bottom - top) / _HEIGHT)
    axes = figure.add_axes(place, facecolor="none", yscale="log")
    sizes, klds = [p.bytes for p in points], [p.kld for p in points]
    unit, name = next(row for row in DECIMAL if max(sizes) >= row[0] or row[0] == 1)
    margin = 0.09 * (max(sizes) - min(sizes)) or 0.1 * max(sizes) or 1
    axes.set_xlim((min(sizes) - margin) / unit, (max(sizes) + margin) / unit)
    axes.set_ylim(min(klds) / 1.9, max(p.kld + max(0, p.error) for p in points) * 1.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    few = max(klds) / min(klds) > 3000  # decades
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0), numticks=99))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"file size, {name}{_POWERS.get(unit, '')}", color=SOFT, fontsize=9.5, labelpad=7)
    axes.set_ylabel("KL divergence, nats a token (log scale)", color=SOFT, fontsize=9.5, labelpad=7)
    axes.tick_params(colors=SOFT, labelsize=9, length=0, pad=6)
    axes.grid(color="#e8ebef", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return axes, unit


def _draw_gaps(axes: Axes, points: Sequence[Point], line: Sequence[Point], unit: int) -> None:
    """From each other file straight down, or up, to the line of the automatic ones: the gap at the same size."""
    sizes, logs = [p.bytes for p in line], [math.log(p.kld) for p in line]
    for point in points:
        if point.kind != "auto" and line and sizes[0] <= point.bytes <= sizes[-1]:
            ends = point.kld, math.exp(np.interp(point.bytes, sizes, logs))
            axes.plot([point.bytes / unit] * 2, ends, color=STYLES[point.kind][0], lw=1.1, ls=(0, (1, 2)), alpha=0.8)


def _draw_point(axes: Axes, point: Point, unit: int, gid: str) -> None:
    """A marker and its error bar, which ends at the lower edge where the error exceeds the value."""
    colour = STYLES[point.kind][0]
    x, low = point.bytes / unit, max(point.kld - point.error, axes.get_ylim()[0])
    if point.error > 0:
        axes.plot([x, x], [low, point.kld + point.error], color=colour, lw=1.1, marker="_", ms=5, mew=1.1)
    draw_marker(axes, x, point.kld, point.kind, printable(gid))


_Box = tuple[float, float, float, float]


def _draw_names(page: Axes, axes: Axes, points: Sequence[Point], line: Sequence[Point], unit: int) -> None:
    """Names beside the points, with a line to each that is further away."""
    spots = {p: _spot(axes, p, unit) for p in points}
    for point, (where, box) in _placed(spots, _dots([spots[p] for p in line])).items():
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if where > _NEAR:
            x, y = spots[point]
            end = _nearest(box, x, y)
            draw_line(page, (x, end[0]), (y, end[1]), "#afb8c1", 0.7)
        colour = SOFT if point.beaten else STYLES[point.kind][0]
        draw_text(page, *centre, _short(point), 8.5, colour, align="center", gid=f"name-{point.name}")


def _placed(spots: Mapping[Point, tuple[float, float]], curve: Sequence[_Box]) -> dict[Point, tuple[float, _Box]]:
    """Each name where it covers least, from left to right, and again with all the others in their places."""
    fixed = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots.values()] + list(curve)
    placed: dict[Point, tuple[float, _Box]] = {}
    covers: dict[Point, list[_Box]] = {}  # a name and the line to it
    for point in 3 * sorted(spots, key=lambda p: (p.bytes, p.kld, p.name)):
        x, y = spots[point]
        taken = fixed + [box for other, boxes in covers.items() if other != point for box in boxes]
        rivals = [spot for other, spot in spots.items() if other != point]
        width, below = text_width(_short(point), 8.5), point.kind == "auto"
        _, where, box = min(_candidates(x, y, width, taken, rivals, below=below))
        placed[point] = where, box
        covers[point] = [box, *(_dots([(x, y), _nearest(box, x, y)]) if where > _NEAR else [])]
    return placed


def _short(point: Point) -> str:
    return cut(point.name, 8.5, 190)


def _spot(axes: Axes, point: Point, unit: int) -> tuple[float, float]:
    """Where a point is on the page, whose y grows downwards."""
    x, y = axes.transData.transform((point.bytes / unit, point.kld))
    return float(x), _HEIGHT - float(y)


def _dots(curve: Sequence[tuple[float, float]]) -> list[_Box]:
    """Small boxes along a line."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(curve):
        for t in np.linspace(0, 1, 2 + int(math.hypot(x1 - x0, y1 - y0) / 6)):
            x, y = float(x0 + t * (x1 - x0)), float(y0 + t * (y1 - y0))
            found.append((x - 1, y - 1, x + 1, y + 1))
    return found


def _nearest(box: _Box, x: float, y: float) -> tuple[float, float]:
    """The point of a box that is nearest to a point."""
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def _candidates(
    x: float,
    y: float,
    width: float,
    taken: Sequence[_Box],
    rivals: Sequence[tuple[float, float]],
    *,
    below: bool,
) -> Iterator[tuple[float, float, _Box]]:
    """Boxes around a point with what is wrong with each: cost, distance, box; `rivals` are the other points."""
    others = np.array(taken)
    for distance in (11, 20, 31, 44, 60):
        for rank, turn in enumerate((40, 75, 10, 110, -20, 150, 180, -60, -100, -140)):
            angle = math.radians(turn + 180 if below else turn)
            cx = x + math.cos(angle) * distance + max(-0.5, min(0.5, math.cos(angle))) * width
            cy = y - math.sin(angle) * distance
            box = (cx - width / 2, cy - 5.5, cx + width / 2, cy + 5.5)
            left, top, right, bottom = _AREA
            out = (
                max(0, left + 2 - box[0]) + max(0, box[2] - right - 20) + max(0, top - box[1]) + max(0, box[3] - bottom)
            )
            leader = _dots([(x, y), _nearest(box, x, y)])[2:-1] if distance > _NEAR else []
            crossed = 4 * sum(_covered(dot, others) for dot in leader)
            unclear = 80 if distance <= _NEAR and _whose(box, x, y, rivals) else 0
            yield 100 * out + _covered(box, others) + crossed + unclear + 0.8 * distance + 2.0 * rank, distance, box


def _whose(box: _Box, x: float, y: float, rivals: Sequence[tuple[float, float]]) -> bool:
    """Whether a name in this place seems to be that of another point."""
    distances = [math.dist(_nearest(box, *spot), spot) for spot in [(x, y), *rivals]]
    return any(distance < distances[0] + 3 for distance in distances[1:])


def _covered(box: _Box, others: NDArray[np.float64]) -> float:
    """The area that a box, with a margin, covers of others (n × left, top, right, bottom)."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]) + 2
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]) + 1
    return float((width.clip(0) * height.clip(0)).sum())
