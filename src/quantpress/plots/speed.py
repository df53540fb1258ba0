"""How fast each file writes and reads: a row a file, largest first, with bars that begin at 0.

Rows and not points: speeds of files of a size lie so close together that names beside points would cover each other,
and who picks a file looks for its name first. Whiskers are standard deviations of the repeated runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.card.numbers import with_error
from quantpress.errors import InputError
from quantpress.plots.kinds import STYLES, Kind
from quantpress.plots.page import (
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
    save,
    settings,
    text_width,
)  # fmt: skip
from quantpress.sizes import human_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Speed", "speed"]

_WIDTH, _STEP, _TOP = 860, 21, 118
_NAMES = 150  # room for names
_BAR = ("#93a1b0", STYLES["auto"][0])


@dataclass(frozen=True)
class Speed:
    """A file's speeds: test ("tg128") to mean and standard deviation, both in tokens a second."""

    name: str
    bytes: int
    kind: Kind
    tests: dict[str, tuple[float, float]] = field(hash=False)
    repacked: bool = False


def speed(
    files: Sequence[Speed], tests: dict[str, str], path: Path, *, title: str, note: str = "", png: bool = False
) -> Path:
    """Draw a column of bars a test and return `path`; raises OutputError, InputError where nothing was measured.

    `tests` are those to show, with the words that stand above their columns; `note` says where and how often they ran;
    `png`: draw it beside as PNG too.
    """
    drawn = sorted((file for file in files if file.tests.keys() & tests.keys()), key=lambda file: -file.bytes)
    if not drawn:
        raise InputError(None, "files", expected=f"one with a speed in {', '.join(tests)}", found="none")
    with settings():
        return save(_speed_figure(drawn, tests, title, note), path, png=png)


def _speed_figure(files: Sequence[Speed], tests: dict[str, str], title: str, note: str) -> Figure:
    bottom = _TOP + _STEP * len(files)
    repacked = [file.name for file in files if file.repacked]
    below = f"repacked for this processor when loaded: {', '.join(repacked)}" if repacked else ""
    figure, page = new_page(_WIDTH, bottom + 22 + (20 if below else 0))
    heading(page, _WIDTH, title, "", note)
    left = PAD + min(_NAMES, max(text_width(file.name, 9.5) for file in files)) + 16
    for i, file in enumerate(files):
        y = _TOP + _STEP * (i + 0.5)
        draw_line(page, (PAD, _WIDTH - PAD), (y + _STEP / 2,) * 2, "#eef1f4", 0.8)
        draw_text(page, PAD, y, cut(file.name, 9.5, _NAMES), 9.5, INK, gid=f"name-{file.name}")
        draw_text(page, left + 58, y, human_size(file.bytes), 9, SOFT, align="right")
    draw_text(page, left + 58, _TOP - 12, "size", 9, SOFT, align="right")
    draw_line(page, (PAD, _WIDTH - PAD), (_TOP, _TOP), RULE)
    left += 58 + 26
    width = (_WIDTH - PAD - left + 26) / len(tests)
    for column, (test, words) in enumerate(tests.items()):
        _draw_column(page, files, test, words, left + column * width, width - 26)
    if below:
        draw_text(page, PAD, bottom + 20, cut(below, 8.5, _WIDTH - 2 * PAD), 8.5, SOFT, gid="repacked")
    return figure


def _draw_column(page: Axes, files: Sequence[Speed], test: str, words: str, left: float, width: float) -> None:
    """The bars of a test, with a whisker and the number behind each."""
    draw_text(page, left, _TOP - 29, cut(words, 10, width, bold=True), 10, INK, bold=True, gid=f"test-{test}")
    draw_text(page, left, _TOP - 12, f"tokens a second ({test})", 9, SOFT)
    values = {i: file.tests[test] for i, file in enumerate(files) if test in file.tests}
    room = max(text_width(with_error(*value), 8.5) for value in values.values()) + 8 if values else 0
    scale = (width - room) / (max(mean + error for mean, error in values.values()) or 1) if values else 0
    for i, (mean, error) in values.items():
        y, colour = _TOP + _STEP * (i + 0.5), _BAR[files[i].kind == "auto"]
        draw_box(page, left, y - 5, max(0.8, scale * mean), 10, colour, gid=f"bar-{test}-{files[i].name}")
        low, high = left + scale * max(0, mean - error), left + scale * (mean + error)
        draw_line(page, (low, high), (y, y), INK, 1)
        for x in (low, high):
            draw_line(page, (x, x), (y - 2.5, y + 2.5), INK, 1)
        draw_text(page, left + width, y, with_error(mean, error), 8.5, SOFT, align="right")
