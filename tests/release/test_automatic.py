"""Automatic variants of a release, on a model of two layers: planned once, measured, described, kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantpress import automatic, gguf
from quantpress.convert import convert
from quantpress.errors import PlanError
from quantpress.plan import read_plan
from quantpress.release import release
from tests import checkpoints
from tests.release.test_release import Journal

VARIANTS = ("Q8_0", "Q5_0", "MP", "auto:9bpw", "auto:like:Q8_0")
AUTO = ("AUTO-9bpw", "Q8_0_AUTO")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("automatic")
    return convert(checkpoints.tiny(folder / "checkpoint"), folder / "tiny-BF16.gguf")


@pytest.fixture(scope="module")
def texts(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    prose, folder = (data / "prose.txt").read_text(), tmp_path_factory.mktemp("texts")
    (folder / "calibration.txt").write_text(prose[:6000])
    (folder / "evaluation.txt").write_text(prose[6000:12000])
    return {purpose: [folder / f"{purpose}.txt"] for purpose in ("calibration", "evaluation")}


def run(source: Path, out: Path, texts: dict[str, list[Path]], **settings: Any) -> list[str]:
    """The steps that did something."""
    journal = Journal()
    options = {"variants": VARIANTS, "budget": "3", "bench": False, "threads": 1, **texts, **settings}
    release(source, out=out, **options, progress=journal)
    return [task.split()[0] for task in journal.tasks]


@pytest.fixture(scope="module")
def made(tiny: Path, texts: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    run(tiny, out, texts)
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the targets that are searched for."""
    found: list[str] = []

    def allocate(model: Path, target: Any, **given: Any) -> Any:
        found.append(target.name)
        return original(model, target, **given)

    original = automatic.allocate
    monkeypatch.setattr(automatic, "allocate", allocate)
    return found


def test_results_say_how_each_was_found_and_files_have_the_planned_size(made: Path, tiny: Path) -> None:
    results = json.loads((made / "results.json").read_text())
    assert list(results["variants"]) == ["Q8_0", "Q5_0", "MP", *AUTO]
    assert "allocation" not in results["variants"]["Q8_0"]
    for name in AUTO:
        row = results["variants"][name]
        with gguf.read(tiny) as model:
            plan = read_plan(made / f"plans/tiny-{name}.plan.json", model)
        found = row["allocation"]
        assert row["file"] == f"tiny-{name}.gguf"
        assert row["bytes"] == plan.bytes == (made / row["file"]).stat().st_size <= found["limit"]
        assert found["reference"] == "Q8_0"
        assert found["reference_bytes"] == results["variants"]["Q8_0"]["bytes"]
        assert found["gate"]["text"] == "evaluation.txt"
        if found["gate"]["passed"]:  # in memory and from the file, on the same text
            assert found["gate"]["plan"]["kld_mean"] == row["kld_mean"]
        assert found["gate"]["reference"]["kld_mean"] == results["variants"]["Q8_0"]["kld_mean"]
    targets = json.loads((made / "release.json").read_text())["settings"]["targets"]
    assert [(target["kind"], target["text"]) for target in targets] == [("bpw", "9bpw"), ("like", "Q8_0")]


def test_pictures_and_card(made: Path) -> None:
    files = json.loads((made / "release.json").read_text())["files"]
    card = (made / "README.md").read_text()
    for name in (*(f"tiny-{name}" for name in ("MP", *AUTO)), "frontier"):
        assert f"plots/{name}.svg" in files
        assert f"](plots/{name}.svg)" in card
        assert (made / f"plots/{name}.svg").read_text().startswith("<?xml")
    assert not (made / "plots/tiny-Q8_0.svg").exists()
    assert "## Automatic plans" in card
    assert all(f"| **{name}** |" in card for name in AUTO)
    results = json.loads((made / "results.json").read_text())["variants"]
    frontier = (made / "plots/frontier.svg").read_text()
    for name, row in results.items():
        assert f"-{name}" in frontier
        assert ("automatic" in next(line for line in card.splitlines() if row["file"] in line).lower()) == (
            name in AUTO
        )


def test_a_second_run_makes_nothing(
    tiny: Path, folder: Path, texts: dict[str, list[Path]], searches: list[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run(tiny, folder, texts) == []
    assert searches == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_missing_or_damaged_plan_is_made_again(
    tiny: Path, folder: Path, texts: dict[str, list[Path]], searches: list[str]
) -> None:
    (folder / "plans/tiny-AUTO-9bpw.plan.json").write_text("{}")
    (folder / "plots/frontier.svg").unlink()
    run(tiny, folder, texts)
    assert searches == ["AUTO-9bpw"]
    assert (folder / "plots/frontier.svg").exists()


def test_another_budget_or_text_makes_another_plan(
    tiny: Path, folder: Path, texts: dict[str, list[Path]], searches: list[str], tmp_path: Path
) -> None:
    one = {"variants": ("auto:9bpw",)}
    run(tiny, folder, texts, **one, budget="0")
    assert searches == ["AUTO-9bpw"]
    card = (folder / "README.md").read_text()
    assert "Nothing was measured" in card
    other = shutil.copy(texts["evaluation"][0], tmp_path / "calibration.txt")  # another imatrix, other sensitivities
    run(tiny, folder, {**texts, "calibration": [Path(other)]}, **one, budget="0")
    assert len(searches) == 2


def test_an_interrupted_run_goes_on_after_the_plans_that_it_made(
    tiny: Path, texts: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: list[str]
) -> None:
    settings = {"variants": ("Q8_0", "auto:9bpw", "auto:like:Q8_0"), "budget": "0"}
    counted = automatic.allocate

    def stopped(model: Path, target: Any, **given: Any) -> Any:
        if target.name == "Q8_0_AUTO":
            raise KeyboardInterrupt
        return counted(model, target, **given)

    with monkeypatch.context() as patch:
        patch.setattr(automatic, "allocate", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, tmp_path / "out", texts, **settings)
    assert (searches, list((tmp_path / "out").glob("tiny-Q8_0*"))) == (["AUTO-9bpw"], [])
    tasks = run(tiny, tmp_path / "out", texts, **settings)
    assert searches == ["AUTO-9bpw", "Q8_0_AUTO"]
    assert "imatrix" not in tasks
    assert "errors" not in tasks  # the first plan's
    assert run(tiny, tmp_path / "out", texts, **settings) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": ("auto:1bpw",)}, "the smallest and the largest that there can be"),
        ({"variants": ("auto:900GB",)}, "the smallest and the largest that there can be"),
        ({"variants": ("auto:nothing",)}, "a number with a unit"),
        ({"variants": ("auto:like:Q9",)}, "expected one of"),
        ({"variants": ("auto:fit:16",)}, "a number with a unit"),
        ({"variants": ("auto:9bpw",), "budget": "long"}, "a time"),
    ],
)
def test_what_cannot_be_is_found_before_any_work(
    settings: dict[str, Any], message: str, tiny: Path, texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=message):
        run(tiny, tmp_path / "out", texts, **settings)
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_two_ways_of_saying_one_target_are_one_variant(
    tiny: Path, texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    settings = {"variants": ("auto:9bpw", "auto: 9 BPW"), "budget": "0"}
    run(tiny, tmp_path / "out", texts, **settings)
    assert list(json.loads((tmp_path / "out/results.json").read_text())["variants"]) == ["AUTO-9bpw"]
