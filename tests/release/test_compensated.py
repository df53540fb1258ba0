"""A release of compensated files: moments in private, what was compensated on the card, kept by a later run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress import moments
from quantpress.check import check
from quantpress.gguf import read
from quantpress.release import release

LITTLE: dict[str, Any] = {
    "variants": ("Q4_K_M", "IQ3_XXS"),
    "bench": False,
    "calibration_tokens": 3 * 512,
    "evaluation_tokens": 2 * 512,
}
MOMENTS = "work/demo-gemma3-imatrix.moments.gguf"


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "demo"
    release(demo, out=out, effort="compensated", **LITTLE)
    return out


def test_rows_and_pages_say_what_was_compensated(folder: Path) -> None:
    rows = json.loads((folder / "results.json").read_text())["variants"]
    for name, row in rows.items():
        found = row["compensated"]
        assert 0 < found["matrices"] <= found["of"], name
    total = sum(row["compensated"]["matrices"] for row in rows.values())
    of = sum(row["compensated"]["of"] for row in rows.values())
    assert f"{total} of {of} matrices" in (folder / "README.md").read_text()
    assert f"{of} 个矩阵中有 {total} 个" in (folder / "README.zh.md").read_text()
    with read(folder / "demo-gemma3-Q4_K_M.gguf") as file:
        assert file.get("quantize.compensated.dataset") == "calibration.txt"
        assert file.get("quantize.compensated.chunks_count") == moments.read(folder / MOMENTS).chunk_count


def test_moments_stay_here(folder: Path) -> None:
    assert (folder / MOMENTS).is_file()
    assert not list(folder.glob("*.moments.gguf"))
    assert not [one for one in check(folder) if one.severity == "error"]


def test_a_second_run_keeps_everything(folder: Path, demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.gguf")}
    row = json.loads((folder / "results.json").read_text())["variants"]["Q4_K_M"]
    release(demo, out=folder, effort="compensated", **LITTLE)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.gguf")} == before
    assert json.loads((folder / "results.json").read_text())["variants"]["Q4_K_M"] == row
