"""The grid that pictures of a model share: rows are roles in the order of the computation, columns are layers.

What a cell shows is the picture's own. Tensors outside of layers come first, in a wide cell each; a gap parts them
from the others. A column is a layer that there is, and cells shrink so that any number of layers fits on the page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from quantpress.plots.page import PAD, SOFT, draw_box, draw_text, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Grid", "Row", "draw_layers", "draw_role", "place", "role_and_layer"]

_EMPTY = "#f3f4f6"  # a layer without this tensor
_GAP = 3  # from row to row

_LAYER = re.compile(r"((?:[^.]+\.)*?)(?:blk\.)?(\d+)\.(.+)")
_ATTENTION = "attn_qkv attn_q attn_k attn_v attn_gate attn_output attn".split()
_STEMS = (*_ATTENTION, *"ssm shortconv time_mix channel_mix ffn_gate ffn_up ffn_down ffn".split())

Content = TypeVar("Content")


@dataclass(frozen=True)
class Row(Generic[Content]):
    """The tensors of a role."""

    role: str
    y: float
    height: float  # of its cells
    cells: Mapping[int | None, Content]  # by layer; None: outside of layers

    @property
    def middle(self) -> float:
        """Where its name stands."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Grid(Generic[Content]):
    """Where the cells go, in points."""

    rows: list[Row[Content]]
    layers: list[int]  # those that there are, in order
    left: float
    cell: float  # width
    width: float  # of the page

    @property
    def top(self) -> float:
        """Where the first row begins."""
        return self.rows[0].y

    @property
    def bottom(self) -> float:
        """Where the last row ends."""
        return self.rows[-1].y + self.rows[-1].height + _GAP

    @property
    def right(self) -> float:
        """Where the cells end."""
        return self.left + self.cell * max(1, len(self.layers))

    @property
    def outside(self) -> float:
        """Width of the cell of a tensor outside of layers: wide enough for a word."""
        return max(self.cell, 58)

    def span(self, layer: int | None, *, joined: bool = False) -> tuple[float, float]:
        """Left edge and width of a layer's cell; `joined`: as far as the next one's."""
        gap = -0.4 if joined else min(2.0, self.cell * 0.12)  # blocks overlap: no seam shows
        if layer is None:
            return self.left, self.outside - gap
        return self.left + self.layers.index(layer) * self.cell, self.cell - gap


def role_and_layer(name: str) -> tuple[str, int | None]:
    """`blk.7.attn_q.weight` → (`attn_q`, 7); `token_embd.weight` → (`token_embd`, None); `enc.blk.0.…` keeps `enc.`."""
    found = _LAYER.fullmatch(name)
    role, layer = (found[1] + found[3], int(found[2])) if found else (name, None)
    return role.removesuffix(".weight"), layer


def place(contents: Mapping[str, Content], *, beside: float = 0, tall: Collection[str] = ()) -> Grid[Content]:
    """Place what there is to show by a tensor's name; `beside`: room right of the cells; `tall`: roles that need more.

    At least one tensor.
    """
    cells: dict[str, dict[int | None, Content]] = {}
    for name, content in contents.items():
        role, layer = role_and_layer(name)
        cells.setdefault(role, {})[layer] = content
    layers = sorted({layer for row in cells.values() for layer in row if layer is not None})
    left = PAD + max(text_width(role, 10) for role in cells) + 10
    right = PAD + beside
    cell = min(104.0, (860 - left - right) / max(1, len(layers)))
    rows = list(_rows(cells, 27 if cell >= 48 else 33, tall))
    return Grid(rows, layers, left, cell, max(560.0, left + right + cell * max(1, len(layers))))


def _rows(
    cells: Mapping[str, Mapping[int | None, Content]], step: float, tall: Collection[str]
) -> Iterator[Row[Content]]:
    """The rows from top to bottom."""
    y, outside = 94.0, True
    for role in _in_order(cells):
        if outside and None not in cells[role]:
            y, outside = y + (10 if y > 94 else 0), False
        height = (2 * step if role in tall else step) - _GAP
        yield Row(role, y, height, cells[role])
        y += height + _GAP


def _in_order(cells: Mapping[str, Mapping[int | None, Content]]) -> Iterable[str]:
    return sorted(cells, key=lambda role: _place(role, inside=None not in cells[role]))


def _place(role: str, *, inside: bool) -> tuple[object, ...]:
    """Sort key of a role: embeddings, output, then attention, feed-forward, shared experts, experts."""
    if not inside:
        order = (role != "token_embd", "embd" not in role, not role.startswith("output"))
        return (False, *order, role)
    prefix, _, last = role.rpartition(".")
    stem = next((i for i, stem in enumerate(_STEMS) if last.startswith(stem)), len(_STEMS))
    experts = ("exps" in last) * 2 + ("shexp" in last) if last.startswith("ffn") else 0
    other = stem == len(_STEMS)
    return (True, prefix if other else "", other, last.startswith("ffn"), experts, stem, role)


def draw_role(page: Axes, grid: Grid[Content], row: Row[Content]) -> None:
    """A row's name, and the places of layers that have no such tensor."""
    draw_text(page, grid.left - 10, row.middle, row.role, 10, align="right")
    if None not in row.cells:
        for layer in (layer for layer in grid.layers if layer not in row.cells):
            x, width = grid.span(layer)
            draw_box(page, x, row.y, width, row.height, _EMPTY)


def draw_layers(page: Axes, grid: Grid[Content]) -> None:
    """Numbers below the columns, as many as are readable."""
    if not grid.layers:
        return
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if grid.cell * n >= 18)
    for column, layer in enumerate(grid.layers):
        if layer % every == 0:
            x = grid.left + (column + 0.5) * grid.cell
            draw_text(page, x, grid.bottom + 8, str(layer), 8.5, SOFT, align="center", gid=f"layer-{layer}")
    draw_text(page, grid.left - 10, grid.bottom + 8, "layer", 8.5, SOFT, align="right")
