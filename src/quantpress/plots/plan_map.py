"""Which type each matrix of a plan has: rows are roles in the order of the computation, columns are layers.

Colour is bits a weight. A cell's area says nothing about bytes (an embedding may outweigh forty layers), so each
role's share of them stands in a bar beside its row. The colour scale is the same for every plan, with about equal
steps from 2 to 3, 4, 5, 6, 8 bits: linear in bits, 2 and 4 would look alike, and an order of the types in use would
make two plans incomparable. Where names of types do not fit, equal neighbours are one block with one name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantpress.errors import InputError
from quantpress.formats import TYPES, TensorType
from quantpress.plots.page import (
    INK,
    PAD,
    RULE,
    SOFT,
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
from quantpress.sizes import human_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from quantpress.gguf import GGUF
    from quantpress.plan import Plan

__all__ = ["plan_map", "role_and_layer"]

_BITS, _STEPS = (1.5, 2, 3, 4, 5, 6, 8, 16), (0, 0.1, 0.26, 0.44, 0.61, 0.76, 0.91, 1)  # and their places in the map
_EMPTY = "#f3f4f6"  # a layer without this tensor

_LAYER = re.compile(r"((?:[^.]+\.)*?)(?:blk\.)?(\d+)\.(.+)")
_ATTENTION = "attn_qkv attn_q attn_k attn_v attn_gate attn_output attn".split()
_STEMS = (*_ATTENTION, *"ssm shortconv time_mix channel_mix ffn_gate ffn_up ffn_down ffn".split())


def role_and_layer(name: str) -> tuple[str, int | None]:
    """`blk.7.attn_q.weight` → (`attn_q`, 7); `token_embd.weight` → (`token_embd`, None); `enc.blk.0.…` keeps `enc.`."""
    found = _LAYER.fullmatch(name)
    role, layer = (found[1] + found[3], int(found[2])) if found else (name, None)
    return role.removesuffix(".weight"), layer


def plan_map(plan: Plan, path: Path, *, title: str | None = None, model: GGUF | None = None) -> Path:
    """Draw which type each matrix of a plan has and return `path`; raises OutputError, InputError for an empty plan.

    `title` stands in place of the model's name and recipe. `model` is the model that was planned, for the shares of
    the bytes: a plan knows no shapes, so without it there are no bars.
    """
    if not plan.tensors:
        raise InputError(None, "plan", expected="tensors to draw", found="none")
    with settings():
        return save(_plan_figure(plan, title, model), path)


def _plan_figure(plan: Plan, title: str | None, model: GGUF | None) -> Figure:
    grid = _Grid.of(plan, model)
    figure, page = new_page(grid.width, grid.height)
    size = f"{human_size(plan.bytes)} · {plan.bits_per_weight:.2f} bits a weight"
    heading(page, grid.width, title or f"{plan.model} · {plan.recipe}", size, grid.note(plan))
    for row in grid.rows:
        _draw_row(page, grid, row)
    _draw_layers(page, grid)
    _draw_legend(page, grid)
    return figure


_Cells = dict[int | None, tuple[str, TensorType]]  # layer to tensor and type


@dataclass(frozen=True)
class _Row:
    role: str
    y: float
    cells: _Cells
    share: float | None  # of the bytes of all tensors


@dataclass(frozen=True)
class _Grid:
    """Where everything of a plan map goes."""

    rows: list[_Row]
    layers: list[int]  # those that there are, in order
    left: float
    top: float
    cell: float  # width
    step: float  # from row to row
    width: float
    bottom: float
    height: float
    used: list[TensorType] = field(default_factory=list)  # by bits

    @classmethod
    def of(cls, plan: Plan, model: GGUF | None) -> _Grid:
        cells: dict[str, _Cells] = {}
        names = plan.matrices or tuple(plan.tensors)
        for name in names:
            role, layer = role_and_layer(name)
            cells.setdefault(role, {})[layer] = (name, TYPES[plan.tensors[name]])
        layers = sorted({layer for row in cells.values() for layer in row if layer is not None})
        left = PAD + max(text_width(role, 10) for role in cells) + 10
        right = PAD + (128 if model else 0)
        cell = min(104.0, (860 - left - right) / max(1, len(layers)))
        step = 27 if cell >= 48 else 33
        rows = list(_rows(plan, model, cells, step))
        width = max(560.0, left + right + cell * max(1, len(layers)))
        bottom = rows[-1].y + step
        types = {TYPES[plan.tensors[name]] for name in names}
        used = sorted(types, key=lambda used: (used.bits_per_weight, used.name))
        height = bottom + 46 + _legend_lines(used, width) * 20 + 30
        return cls(rows, layers, left, rows[0].y, cell, step, width, bottom, height, used)

    @property
    def joins(self) -> bool:
        """Whether equal neighbours are one block with one name, as the names do not fit in the cells."""
        return any(text_width(type.name, 9) + 6 > self.cell for type in self.used)

    @property
    def right(self) -> float:
        """Where the cells end."""
        return self.left + self.cell * max(1, len(self.layers))

    def note(self, plan: Plan) -> str:
        """What the cells are, and what is not among them."""
        drawn = sum(len(row.cells) for row in self.rows)
        rest = Counter(plan.tensors.values()) - Counter(
            type.name for row in self.rows for _, type in row.cells.values()
        )
        kinds = ", ".join(f"{count:,} × {type}" for type, count in rest.most_common())
        tensors = "a tensor" if drawn == 1 else f"{drawn:,} tensors"
        return f"{tensors} by role and layer" + (f"; not drawn, as they are never quantized: {kinds}" if kinds else "")


def _rows(plan: Plan, model: GGUF | None, cells: dict[str, _Cells], step: float) -> Iterator[_Row]:
    """The rows from top to bottom; a gap parts tensors outside of layers from the others."""
    y, outside = 94.0, True
    for role in sorted(cells, key=lambda role: _place(role, inside=None not in cells[role])):
        if outside and None not in cells[role]:
            y, outside = y + (10 if y > 94 else 0), False
        share = None
        if model is not None:
            share = sum(_nbytes(model, name, type) for name, type in cells[role].values()) / plan.tensor_bytes
        yield _Row(role, y, cells[role], share)
        y += step


def _nbytes(model: GGUF, name: str, type: TensorType) -> int:
    return model.tensors[name].weights // type.block * type.bytes


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


def _draw_row(page: Axes, grid: _Grid, row: _Row) -> None:
    middle = row.y + (grid.step - 3) / 2
    draw_text(page, grid.left - 10, middle, row.role, 10, align="right")
    if None not in row.cells:
        for column in (i for i, layer in enumerate(grid.layers) if layer not in row.cells):
            _cell(page, grid, column, row.y, _EMPTY)
    for layer, (name, type) in row.cells.items():
        column = 0 if layer is None else grid.layers.index(layer)
        joined = grid.joins and layer is not None and _type_at(grid, row, column + 1) is type
        _cell(
            page, grid, column, row.y, _colour(type.bits_per_weight), f"cell-{name}", wide=layer is None, joined=joined
        )
    for x, type, turned in _labels(grid, row):
        size = 7.0 if turned else min(9.5, 7.5 + grid.cell / 50)
        draw_text(page, x, middle, type.name, size, _on(type), align="center", turned=turned)
    if row.share is not None:
        _draw_share(page, grid, row, middle)


def _draw_share(page: Axes, grid: _Grid, row: _Row, middle: float) -> None:
    most = max(other.share or 0 for other in grid.rows)
    share = row.share or 0
    x, length = grid.right + 14, 70 * share / most
    draw_box(page, x, middle - 3.5, max(length, 0.8), 7, "#8c959f", gid=f"share-{row.role}")
    draw_text(page, x + length + 5, middle, f"{100 * share:.1f} %", 8.5, SOFT)


def _labels(grid: _Grid, row: _Row) -> Iterator[tuple[float, TensorType, bool]]:
    """Where names of types fit: in each cell, else once in a run of equal cells, upright or turned; x, type, turned."""
    if None in row.cells:
        yield grid.left + _outside(grid) / 2, row.cells[None][1], False
        return
    columns = range(len(grid.layers))
    for type, run in groupby(columns, key=lambda column: _type_at(grid, row, column)):
        cells = list(run)
        for start, count in [(cells[0], len(cells))] if grid.joins else [(column, 1) for column in cells]:
            room = grid.cell * count
            turned = room < text_width(type.name, 9) + 6 if type else False
            if type and (not turned or (grid.cell >= 11 and grid.step - 4 >= text_width(type.name, 7))):
                yield grid.left + grid.cell * start + room / 2, type, turned


def _type_at(grid: _Grid, row: _Row, column: int) -> TensorType | None:
    """The type of a column's cell, None where the layer has none."""
    layer = grid.layers[column] if column < len(grid.layers) else None
    return row.cells[layer][1] if layer in row.cells else None


def _outside(grid: _Grid) -> float:
    """Width of the cell of a tensor outside of layers: its name always fits."""
    return max(grid.cell, 58)


def _cell(
    page: Axes, grid: _Grid, column: int, y: float, colour: str, gid: str | None = None, *, wide: bool = False,
    joined: bool = False,
) -> None:  # fmt: skip
    gap = -0.4 if joined else min(2.0, grid.cell * 0.12)  # blocks overlap: no seam shows
    width = _outside(grid) if wide else grid.cell
    draw_box(page, grid.left + column * grid.cell, y, width - gap, grid.step - 3, colour, gid=gid)


def _draw_layers(page: Axes, grid: _Grid) -> None:
    """Numbers below the columns, as many as are readable, and what the bars are."""
    if grid.rows[0].share is not None:
        draw_text(page, grid.right + 14, grid.top - 12, "share of bytes", 8.5, SOFT)
    if not grid.layers:
        return
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000, 10**9) if grid.cell * n >= 18)
    for column, layer in enumerate(grid.layers):
        if layer % every == 0:
            x = grid.left + (column + 0.5) * grid.cell
            draw_text(page, x, grid.bottom + 8, str(layer), 8.5, SOFT, align="center", gid=f"layer-{layer}")
    draw_text(page, grid.left - 10, grid.bottom + 8, "layer", 8.5, SOFT, align="right")


def _legend_places(used: Sequence[TensorType], width: float) -> Iterator[tuple[float, int, TensorType, str]]:
    x, line = PAD + 36.0, 0
    for type in used:
        text = f"{type.name}  {number(type.bits_per_weight)}"
        length = 16 + text_width(text, 9) + 20
        if x + length - 20 > width - PAD and x > PAD + 36:
            x, line = PAD + 36.0, line + 1
        yield x, line, type, text
        x += length


def _legend_lines(used: Sequence[TensorType], width: float) -> int:
    return 1 + max(line for _, line, *_ in _legend_places(used, width))


def _draw_legend(page: Axes, grid: _Grid) -> None:
    """The types of the plan with their bits a weight, and the scale that all plans share."""
    y = grid.bottom + 40
    draw_line(page, (PAD, grid.width - PAD), (y - 14, y - 14), RULE)
    draw_text(page, PAD, y, "types", 8.5, SOFT)
    for x, line, type, text in _legend_places(grid.used, grid.width):
        draw_box(page, x, y + 20 * line - 5.5, 11, 11, _colour(type.bits_per_weight), gid=f"type-{type.name}")
        draw_text(page, x + 16, y + 20 * line, text, 9, INK)
    y += 20 * _legend_lines(grid.used, grid.width) + 6
    draw_text(page, PAD, y, "scale", 8.5, SOFT)
    for step, bits in enumerate(_BITS):
        x = PAD + 36 + 42 * step
        draw_box(page, x, y - 8, 42, 16, _colour(bits))
        draw_text(page, x + 21, y, number(bits), 8.5, _contrast(_colour(bits)), align="center")
    draw_text(page, PAD + 36 + 42 * len(_BITS) + 8, y, "bits a weight", 8.5, SOFT)


@cache
def _colour(bits: float) -> str:
    """Light to dark with even steps for every colour vision (matplotlib's viridis); more than 16 bits as 16."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis_r"](np.interp(bits, _BITS, _STEPS)))


def _on(type: TensorType) -> str:
    return _contrast(_colour(type.bits_per_weight))


def _contrast(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
