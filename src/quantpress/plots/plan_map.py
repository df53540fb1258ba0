"""Which type each matrix of a plan has: rows are roles in the order of the computation, columns are layers.

Colour is bits a weight. A cell's area says nothing about bytes (an embedding may outweigh forty layers), so each
role's share of them stands in a bar beside its row. The colour scale is the same for every plan, with about equal
steps from 2 to 3, 4, 5, 6, 8 bits: linear in bits, 2 and 4 would look alike, and an order of the types in use would
make two plans incomparable. Where names of types do not fit, equal neighbours are one block with one name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quantpress.errors import InputError
from quantpress.formats import TYPES, TensorType
from quantpress.plots.grid import Grid, Row, draw_layers, draw_role, place
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

__all__ = ["plan_map"]

_BITS, _STEPS = (1.5, 2, 3, 4, 5, 6, 8, 16), (0, 0.1, 0.26, 0.44, 0.61, 0.76, 0.91, 1)  # and their places in the map

_Grid = Grid[tuple[str, TensorType]]  # name and type
_Row = Row[tuple[str, TensorType]]


def plan_map(plan: Plan, path: Path, *, title: str | None = None, model: GGUF | None = None, png: bool = False) -> Path:
    """Draw which type each matrix of a plan has and return `path`; raises OutputError, InputError for an empty plan.

    `title` stands in place of the model's name and recipe. `model` is the model that was planned, for the shares of
    the bytes: a plan knows no shapes, so without it there are no bars. `png`: draw it beside as PNG too.
    """
    if not plan.tensors:
        raise InputError(None, "plan", expected="tensors to draw", found="none")
    with settings():
        return save(_plan_figure(plan, title, model), path, png=png)


def _plan_figure(plan: Plan, title: str | None, model: GGUF | None) -> Figure:
    types = {name: TYPES[plan.tensors[name]] for name in plan.matrices or plan.tensors}
    used = sorted(set(types.values()), key=lambda used: (used.bits_per_weight, used.name))
    grid = place({name: (name, type) for name, type in types.items()}, beside=128 if model else 0)
    shares = _shares(plan, model, grid) if model else {}
    figure, page = new_page(grid.width, grid.bottom + 46 + _legend_lines(used, grid.width) * 20 + 30)
    size = f"{human_size(plan.bytes)} · {plan.bits_per_weight:.2f} bits a weight"
    heading(page, grid.width, title or f"{plan.model} · {plan.recipe}", size, _note(plan, types))
    for row in grid.rows:
        draw_role(page, grid, row)
        _draw_types(page, grid, row, joins=_joins(grid, used))
        if shares:
            _draw_share(page, grid, row, shares)
    if shares:
        draw_text(page, grid.right + 14, grid.top - 12, "share of bytes", 8.5, SOFT)
    draw_layers(page, grid)
    _draw_legend(page, grid, used)
    return figure


def _note(plan: Plan, drawn: Mapping[str, TensorType]) -> str:
    """What the cells are, and what is not among them."""
    rest = Counter(plan.tensors.values()) - Counter(type.name for type in drawn.values())
    kinds = ", ".join(f"{count:,} × {type}" for type, count in rest.most_common())
    tensors = "a tensor" if len(drawn) == 1 else f"{len(drawn):,} tensors"
    return f"{tensors} by role and layer" + (f"; not drawn, as they are never quantized: {kinds}" if kinds else "")


def _shares(plan: Plan, model: GGUF, grid: _Grid) -> dict[str, float]:
    """Of the bytes of all tensors, by role."""
    return {
        row.role: sum(_nbytes(model, name, type) for name, type in row.cells.values()) / plan.tensor_bytes
        for row in grid.rows
    }


def _nbytes(model: GGUF, name: str, type: TensorType) -> int:
    return model.tensors[name].weights // type.block * type.bytes


def _joins(grid: _Grid, used: Sequence[TensorType]) -> bool:
    """Whether equal neighbours are one block with one name, as the names do not fit in the cells."""
    return any(text_width(type.name, 9) + 6 > grid.cell for type in used)


def _draw_types(page: Axes, grid: _Grid, row: _Row, *, joins: bool) -> None:
    for layer, (name, type) in row.cells.items():
        follows = layer is not None and _type_at(grid, row, grid.layers.index(layer) + 1) is type
        x, width = grid.span(layer, joined=joins and follows)
        draw_box(page, x, row.y, width, row.height, _colour(type.bits_per_weight), gid=f"cell-{name}")
    for x, type, turned in _labels(grid, row, joins=joins):
        size = 7.0 if turned else min(9.5, 7.5 + grid.cell / 50)
        draw_text(page, x, row.middle, type.name, size, _on(type), align="center", turned=turned)


def _draw_share(page: Axes, grid: _Grid, row: _Row, shares: Mapping[str, float]) -> None:
    share = shares[row.role]
    x, length = grid.right + 14, 70 * share / max(shares.values())
    draw_box(page, x, row.middle - 3.5, max(length, 0.8), 7, "#8c959f", gid=f"share-{row.role}")
    draw_text(page, x + length + 5, row.middle, f"{100 * share:.1f} %", 8.5, SOFT)


def _labels(grid: _Grid, row: _Row, *, joins: bool) -> Iterator[tuple[float, TensorType, bool]]:
    """Where names of types fit: in each cell, else once in a run of equal cells, upright or turned; x, type, turned."""
    if None in row.cells:
        yield grid.left + grid.outside / 2, row.cells[None][1], False
        return
    columns = range(len(grid.layers))
    for type, run in groupby(columns, key=lambda column: _type_at(grid, row, column)):
        cells = list(run)
        for start, count in [(cells[0], len(cells))] if joins else [(column, 1) for column in cells]:
            room = grid.cell * count
            turned = room < text_width(type.name, 9) + 6 if type else False
            if type and (not turned or (grid.cell >= 11 and row.height - 1 >= text_width(type.name, 7))):
                yield grid.left + grid.cell * start + room / 2, type, turned


def _type_at(grid: _Grid, row: _Row, column: int) -> TensorType | None:
    """The type of a column's cell, None where the layer has none."""
    layer = grid.layers[column] if column < len(grid.layers) else None
    return row.cells[layer][1] if layer in row.cells else None


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


def _draw_legend(page: Axes, grid: _Grid, used: Sequence[TensorType]) -> None:
    """The types of the plan with their bits a weight, and the scale that all plans share."""
    y = grid.bottom + 40
    draw_line(page, (PAD, grid.width - PAD), (y - 14, y - 14), RULE)
    draw_text(page, PAD, y, "types", 8.5, SOFT)
    for x, line, type, text in _legend_places(used, grid.width):
        draw_box(page, x, y + 20 * line - 5.5, 11, 11, _colour(type.bits_per_weight), gid=f"type-{type.name}")
        draw_text(page, x + 16, y + 20 * line, text, 9, INK)
    y += 20 * _legend_lines(used, grid.width) + 6
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
