"""Which pictures a release has, where they are, and when they are drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from quantpress import gguf
from quantpress.imatrix.file import Imatrix, write
from quantpress.inputs import Base
from quantpress.ledger import Ledger
from quantpress.pictures import draw, shown_tests
from quantpress.plan import Plan, plan
from quantpress.run import Run, Settings
from tests.recipes import shapes
from tests.release.test_report import results

NAMES = ("coverage", "frontier", "m-MP", "speed")
PLOTS = tuple(f"{name}.{kind}" for name in NAMES for kind in ("png", "svg"))
WEIGHTS = ("blk.0.attn_q.weight", "blk.1.attn_q.weight")


def drawn(folder: Path, base: Base, plans: Mapping[str, Plan], values: dict[str, Any]) -> dict[str, str]:
    ledger = Ledger(folder / "release.json")
    ledger.facts = {"quantpress": "0", "engine": {}}
    run = Run(cast(Settings, SimpleNamespace()), {"gpu_layers": 0}, ledger)
    importance = folder / "m-imatrix.gguf"
    if not importance.exists():
        sums = {name: np.ones((1, 256), np.float32) for name in WEIGHTS}
        write(Imatrix(sums, {name: np.array([512]) for name in WEIGHTS}, chunk_size=512), importance)
    ledger.record([importance], "imatrix")
    found = draw(run, base, importance, plans, values)
    ledger.save()
    return found


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = shapes.llama(tmp_path / "m-BF16.gguf", layers=2, hidden=256, ffn_size=512, heads=4, kv_heads=2)
    return Base((path,), ("0",), published=False)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / "plots").iterdir())}


def test_they_are_drawn_once_and_in_the_books(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    with gguf.read(base.path) as model:
        plans = {"MP": plan(model, type="Q4_K_M"), "Q4_K_M": plan(model, type="Q4_K_M")}
    paths = {
        "MP": "plots/m-MP.svg",
        "coverage": "plots/coverage.svg",
        "frontier": "plots/frontier.svg",
        "speed": "plots/speed.svg",
    }
    assert drawn(folder, base, plans, results()) == paths
    before = stamps(folder)
    assert tuple(before) == PLOTS
    known = json.loads((folder / "release.json").read_text())["files"]
    assert set(known) == {"m-imatrix.gguf", *(f"plots/{name}" for name in PLOTS)}

    assert drawn(folder, base, plans, results()) == paths
    assert stamps(folder) == before
    (folder / "plots/speed.png").unlink()
    drawn(folder, base, plans, results())
    after = stamps(folder)
    assert {name for name in PLOTS if after[name] != before[name]} == {"speed.png", "speed.svg"}


def test_without_speeds_there_is_no_picture_of_them(base: Base, tmp_path: Path) -> None:
    values = results()
    for row in values["variants"].values():
        row.pop("speed", None)
    assert shown_tests(values) == []
    assert list(drawn(tmp_path, base, {}, values)) == ["coverage", "frontier"]


def test_the_first_test_of_each_sort_is_shown() -> None:
    speeds = [{"test": test} for test in ("pp512", "pp1024", "tg128", "tg256")]
    assert shown_tests({"variants": {"Q4_0": {}, "Q8_0": {"speed": {"tests": speeds}}}}) == ["tg128", "pp512"]


def test_the_picture_says_where_it_was_measured(base: Base, tmp_path: Path) -> None:
    values = results()
    values["machine"] |= {"backend": "A GPU", "threads": 8}
    drawn(tmp_path, base, {}, values)
    line = "A CPU, 8 threads, A GPU; longer is better, whiskers are standard deviations of 3 runs"
    assert line in (tmp_path / "plots/speed.svg").read_text()
