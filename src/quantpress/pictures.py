"""The pictures of a release: the plan of each variant that is no stock mix, and size against divergence of all.

Drawn again only where what they show has changed; they are entered in release.json as every file is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from quantpress import gguf
from quantpress.files import make_folder
from quantpress.inputs import Base
from quantpress.names import model_name
from quantpress.plan import Plan
from quantpress.plots import Point, frontier, plan_map
from quantpress.recipes import MIXES, VARIANTS
from quantpress.run import Run

__all__ = ["FRONTIER", "draw"]

FRONTIER = "frontier"


def draw(run: Run, base: Base, plans: Mapping[str, Plan], results: dict[str, Any]) -> dict[str, str]:
    """Draw them into `plots`; returns each one's path in the release folder, by the variant's name or FRONTIER."""
    folder = run.folder / "plots"
    shown = {name: plan for name, plan in plans.items() if name not in MIXES and name not in VARIANTS}
    found = {name: _plan(run, base, name, plan, folder) for name, plan in shown.items()}
    points = [_point(name, row) for name, row in results["variants"].items()]
    if any(point.kld > 0 for point in points):
        found[FRONTIER] = _frontier(run, base, points, folder)
    return {name: path.relative_to(run.folder).as_posix() for name, path in found.items()}


def _plan(run: Run, base: Base, name: str, plan: Plan, folder: Path) -> Path:
    path = folder / run.file(base, name).with_suffix(".svg").name
    made_from = run.made_from("picture", name, plan.to_json())
    if not run.ledger.kept(made_from):
        make_folder(folder)
        with gguf.read(base.path) as model:
            plan_map(plan, path, model=model)
        run.ledger.record([path], made_from)
    return path


def _frontier(run: Run, base: Base, points: list[Point], folder: Path) -> Path:
    path = folder / f"{FRONTIER}.svg"
    made_from = run.made_from(FRONTIER, base.path.name, list(map(repr, points)))
    if not run.ledger.kept(made_from):
        make_folder(folder)
        frontier(points, path, title=f"{model_name(base.path)}: size and divergence")
        run.ledger.record([path], made_from)
    return path


def _point(name: str, row: dict[str, Any]) -> Point:
    kind: Literal["mix", "auto", "other"] = "other"
    if "allocation" in row:
        kind = "auto"
    elif name in MIXES:
        kind = "mix"
    return Point(name, row["bytes"], row["kld_mean"], row["kld_error"], kind)
