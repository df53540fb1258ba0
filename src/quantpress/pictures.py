"""The pictures of a release: plans of variants that are no stock mix, size against divergence, speed, the imatrix.

Each is there as SVG and, for pages that take no SVG, as PNG of the same name. They are drawn again only where what they
show has changed, and entered in release.json as every file is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantpress import gguf
from quantpress.card.rows import better, first_tests
from quantpress.files import make_folder
from quantpress.imatrix import show
from quantpress.inputs import Base
from quantpress.names import model_name
from quantpress.plan import Plan
from quantpress.plots import Point, Speed, coverage, frontier, kind_of, plan_map, speed
from quantpress.recipes import is_stock
from quantpress.run import Run

__all__ = ["COVERAGE", "FRONTIER", "SPEED", "draw", "shown_tests"]

COVERAGE, FRONTIER, SPEED = "coverage", "frontier", "speed"
_WORDS = {"tg": "writing {} tokens", "pp": "reading a prompt of {} tokens"}


def draw(run: Run, base: Base, importance: Path, plans: Mapping[str, Plan], results: dict[str, Any]) -> dict[str, str]:
    """Draw them into `plots`; returns each SVG's path in the release folder, by the variant's or the picture's name.

    COVERAGE is that of the importance matrix; FRONTIER is missing where no divergence is above 0, SPEED where none was
    measured.
    """
    shown = {name: plan for name, plan in plans.items() if not is_stock(name)}
    found = {name: _plan(run, base, name, plan) for name, plan in shown.items()}
    found[COVERAGE] = _coverage(run, base, importance)
    if any(row["kld_mean"] > 0 for row in results["variants"].values()):
        found[FRONTIER] = _frontier(run, base, results)
    if shown_tests(results):
        found[SPEED] = _speeds(run, base, results)
    return {name: path.relative_to(run.folder).as_posix() for name, path in found.items()}


def _coverage(run: Run, base: Base, importance: Path) -> Path:
    def draw_to(path: Path) -> Path:
        return coverage(show(importance, model=base.path), path, title=importance.name, png=True)

    return _drawn(run, COVERAGE, [importance.name, run.ledger.sha256(importance)], draw_to)


def _frontier(run: Run, base: Base, results: dict[str, Any]) -> Path:
    rows = results["variants"]
    points = [_point(name, row, better(row, list(rows.values())) is not None) for name, row in rows.items()]
    title = f"{model_name(base.path)}: size and divergence"
    made_from = [title, *map(repr, points)]
    return _drawn(run, FRONTIER, made_from, lambda path: frontier(points, path, title=title, png=True))


def _speeds(run: Run, base: Base, results: dict[str, Any]) -> Path:
    files = [_speed(name, row) for name, row in results["variants"].items() if "speed" in row]
    tests = {test: _WORDS[test[:2]].format(test[2:]) for test in shown_tests(results)}
    title, note = f"{model_name(base.path)}: speed", _note(results)
    made_from = [title, note, tests, *map(repr, files)]
    return _drawn(run, SPEED, made_from, lambda path: speed(files, tests, path, title=title, note=note, png=True))


def _drawn(run: Run, name: str, made_from: Any, draw_to: Callable[[Path], Path]) -> Path:
    """The picture as it is, or drawn to its path."""
    path = run.folder / "plots" / f"{name}.svg"
    source = run.made_from("picture with PNG", name, made_from)
    if not run.ledger.kept(source):
        make_folder(path.parent)
        draw_to(path)
        run.ledger.record([path, path.with_suffix(".png")], source)
    return path


def _plan(run: Run, base: Base, name: str, plan: Plan) -> Path:
    def draw_to(path: Path) -> Path:
        with gguf.read(base.path) as model:
            return plan_map(plan, path, model=model, png=True)

    return _drawn(run, run.file(base, name).stem, plan.to_json(), draw_to)


def _point(name: str, row: dict[str, Any], beaten: bool) -> Point:
    return Point(name, row["bytes"], row["kld_mean"], row["kld_error"], kind_of(name, row), beaten)


def _speed(name: str, row: dict[str, Any]) -> Speed:
    tests = {test["test"]: (test["mean"], test["deviation"]) for test in row["speed"]["tests"]}
    return Speed(name, row["bytes"], kind_of(name, row), tests, row["speed"]["repacked"])


def shown_tests(results: Mapping[str, Any]) -> list[str]:
    """The first test of each sort, as the pictures show no more: of writing (tg128), of reading a prompt (pp512)."""
    rows = results["variants"].values()
    return first_tests((test["test"] for row in rows if "speed" in row for test in row["speed"]["tests"]), _WORDS)


def _note(results: Mapping[str, Any]) -> str:
    """Where and how often speeds were measured, in a line."""
    measured = [row["speed"]["tests"] for row in results["variants"].values() if "speed" in row]
    repeats = {test["repeats"] for tests in measured for test in tests}
    runs = f" of {repeats.pop()} runs" if len(repeats) == 1 else ""
    machine = results["machine"]
    gpu = "" if machine["backend"] == "CPU" else f", {machine['backend']}"
    return (
        f"{machine['cpu']}, {machine['threads']} threads{gpu}; longer is better, whiskers are standard deviations{runs}"
    )
