"""The whole way on the demo model, with few variants and little text: what comes out, and what a second run keeps."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from quantpress.engine import Engine
from quantpress.errors import InputError, OutputError, PlanError, TextError
from quantpress.evaluate import evaluate
from quantpress.gguf import read
from quantpress.memory import footprint
from quantpress.progress import Progress
from quantpress.release import release

VARIANTS = ("BF16", "Q4_K_M", "IQ3_XXS", "MP")
LITTLE: dict[str, Any] = {
    "variants": VARIANTS,
    "bench": False,
    "calibration_tokens": 3 * 512,
    "evaluation_tokens": 3 * 512,
}


class Journal(Progress):
    """Remembers what was worked on, but for what takes a moment."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def task(self, label: str, total: int, unit: str = "") -> Any:
        if not label.startswith(("ranking", "memory")):
            self.tasks.append(label)
        return super().task(label, total, unit)


def run(demo: Path, out: Path, **settings: Any) -> list[str]:
    journal = Journal()
    assert release(demo, out=out, **{**LITTLE, **settings}, progress=journal) == out / "README.md"
    return journal.tasks


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "demo"
    run(demo, out)
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.gguf"))}


def test_the_folder_holds_what_a_release_needs(folder: Path) -> None:
    models = {f"demo-gemma3-{name}.gguf" for name in (*VARIANTS, "imatrix")}
    files = {*models, "README.md", "README.zh.md", "report.html", "results.json", "release.json"}
    texts = {"calibration.txt", "evaluation.txt"}
    assert {path.name for path in folder.iterdir()} == {*files, *texts, "plans", "plots", "work"}
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("coverage", "demo-gemma3-MP", "frontier") for kind in ("svg", "png")
    }
    plans = {"demo-gemma3-MP.plan.json", "demo-gemma3-MP.plan.tensor_types.txt"}
    assert {path.name for path in (folder / "plans").iterdir()} == plans
    assert (folder / "calibration.txt").read_text() != (folder / "evaluation.txt").read_text()


def test_release_json_knows_every_file(folder: Path) -> None:
    known = json.loads((folder / "release.json").read_text())
    for name, entry in known["files"].items():
        content = (folder / name).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert {path.name for path in folder.glob("*.gguf")} <= set(known["files"])
    assert known["settings"]["variants"] == list(VARIANTS)
    assert known["engine"]["llama_cpp_python"]
    assert "model.safetensors" in dict(known["source"]["sha256"])
    assert not known["unlisted"]


def test_results_are_what_evaluate_says_of_the_shipped_bytes(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert list(results["variants"]) == list(VARIANTS)
    row = results["variants"]["IQ3_XXS"]
    found = evaluate(folder / "demo-gemma3-BF16.gguf", [folder / row["file"]], text=[folder / "evaluation.txt"])
    for key, value in found[0].to_dict().items():
        assert key == "file" or row[key] == value, key
    assert results["variants"]["BF16"]["kld_mean"] == 0
    assert 0 < results["variants"]["Q4_K_M"]["kld_mean"] < row["kld_mean"]
    assert row["bytes"] == (folder / row["file"]).stat().st_size
    taken = footprint(folder / row["file"], context=4096, outputs=1)
    assert row["memory"] == {**asdict(taken), "total": taken.total}


def test_every_file_loads_in_llama_cpp_and_says_what_it_is(folder: Path) -> None:
    for name in VARIANTS:
        path = folder / f"demo-gemma3-{name}.gguf"
        with Engine(path) as engine:
            assert engine.info.vocab == 4096
    with read(folder / "demo-gemma3-IQ3_XXS.gguf") as file:
        assert file.get("general.quantized_by") == "quantpress"
        assert file.get("quantize.imatrix.file") == "demo-gemma3-imatrix.gguf"
        assert file.get("quantize.imatrix.dataset") == "calibration.txt"


def test_the_card_has_a_row_a_file(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    for name, row in results["variants"].items():
        line = next(line for line in card.splitlines() if line.startswith(f"| [{row['file']}]"))
        cells = [cell.strip() for cell in line.replace(r"\|", "").strip("|").split("|")]
        assert cells[1].removesuffix("\u00a0†") == name
        assert cells[4] == f"{row['perplexity']:.4f}"
    assert "<start_of_turn>user" in card
    assert str(folder) not in card


def test_nothing_depends_on_where_or_when(demo: Path, folder: Path, tmp_path: Path) -> None:
    run(demo, tmp_path / "demo")
    assert hashes(tmp_path / "demo") == hashes(folder)
    assert (tmp_path / "demo/README.md").read_text() == (folder / "README.md").read_text()


def test_a_second_run_redoes_only_what_is_missing_or_damaged(demo: Path, folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    before = hashes(folder)
    assert run(demo, folder) == []

    (folder / "demo-gemma3-MP.gguf").unlink()
    path = folder / "demo-gemma3-Q4_K_M.gguf"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert run(demo, folder) == ["quantize"]  # the bytes are those that were measured
    assert hashes(folder) == before

    assert run(demo, folder, variants=("BF16", "Q4_K_M", "Q8_0")) == [
        "quantize", "evaluate demo-gemma3-BF16.gguf", "evaluate demo-gemma3-Q8_0.gguf",
    ]  # fmt: skip
    tasks = run(demo, folder, variants=("BF16",), seed=1)
    assert "imatrix" in tasks
    assert "convert" not in tasks


def test_a_float_gguf_is_a_source_too(bf16_gguf: Path, tmp_path: Path, folder: Path) -> None:
    tasks = run(bf16_gguf, tmp_path / "out")
    assert "convert" not in tasks
    ours, other = hashes(tmp_path / "out"), hashes(folder)
    assert {name for name in ours if ours[name] != other[name]} == {"demo-gemma3-BF16.gguf"}  # it says who copied it


def test_bad_input(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing there"):
        run(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(PlanError, match="Q4_K_M"):
        run(demo, tmp_path / "out", variants=("Q4_K_N",))
    with pytest.raises(TextError, match="none there"):
        run(demo, tmp_path / "out", calibration=[tmp_path / "none.txt"])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        run(demo, tmp_path / "file" / "out")
    for settings in (
        {"encoder": "none"},
        {"effort": "none"},
        {"variants": ()},
        {"chat": True},
        {"calibration_tokens": 0},
    ):
        with pytest.raises(InputError):
            run(demo, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "work" / "demo-gemma3-BF16.gguf").exists()
