"""Names, plans and importance: what a run writes, and the bytes that do not depend on how."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress import gguf, tiles
from quantpress.arrays import Bytes
from quantpress.encoding import ENCODERS, Tile
from quantpress.errors import PlanError
from quantpress.formats import TensorType
from quantpress.imatrix import Imatrix, write
from quantpress.plan import plan
from quantpress.progress import Progress
from quantpress.quantize import quantize
from tests.oracle import models


@pytest.mark.parametrize("count", [1, 3])
def test_the_bytes_do_not_depend_on_threads_or_tiles(
    count: int, dense: Path, dense_imatrix: Imatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = ["Q4_K_M", "IQ3_M", "MP", "BF16"]
    expected = quantize(dense, types=types, imatrix=dense_imatrix.path, out=tmp_path / "a", threads=2)
    monkeypatch.setattr(tiles, "TILE", 5000)
    found = quantize(dense, types=types, imatrix=dense_imatrix.path, out=tmp_path / "b", threads=count)
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]


def test_each_tensor_is_encoded_once_to_each_type(
    dense: Path, dense_imatrix: Imatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, int]] = []

    def count(tile: Tile, types: Sequence[TensorType], effort: str) -> list[Bytes]:
        encoded.extend((type.name, len(tile.data) * tile.cols) for type in types)
        return ENCODERS["quantpress"].encode(tile, types, effort)

    counting = replace(ENCODERS["quantpress"], encode=count)
    monkeypatch.setattr("quantpress.encoding.ENCODERS", {**ENCODERS, "counting": counting})
    types = ["Q4_K_M", "Q4_K_S", "Q4_K_L", "Q5_K_M", "Q6_K"]
    files = quantize(dense, types=types, imatrix=dense_imatrix.path, out=tmp_path, encoder="counting")
    pairs = set()
    for path in files:
        with gguf.read(path) as model:
            pairs |= {(name, t.type.name, t.weights) for name, t in model.tensors.items() if len(t.shape) > 1}
    assert sum(size for _, size in encoded) == sum(weights for _, _, weights in pairs)


def test_the_name_comes_from_the_source(dense: Path, tmp_path: Path) -> None:
    for name, expected in {
        "My.Model-1.5-bf16.gguf": "My.Model-1.5-Q4_0.gguf",
        "M-F16.gguf": "M-Q4_0.gguf",
        "m.gguf": "m-Q4_0.gguf",
    }.items():
        model = tmp_path / name
        shutil.copy(dense, model)
        assert quantize(model, types=["q4_0"], out=tmp_path / "out") == [tmp_path / "out" / expected]


def test_split_files(dense: Path, dense_imatrix: Imatrix, tmp_path: Path) -> None:
    source = models.save(tmp_path / "Tiny-BF16.gguf", split_bytes=60_000)
    assert source.name == "Tiny-BF16-00001-of-00006.gguf"
    whole = quantize(dense, types=["Q4_K_M"], imatrix=dense_imatrix.path, out=tmp_path / "whole")[0]
    (path,) = quantize(source, types=["Q4_K_M"], imatrix=dense_imatrix.path, out=tmp_path / "parts", split_bytes=30_000)
    assert path.parent == tmp_path / "parts" / "Tiny-Q4_K_M"
    assert path.name.startswith("Tiny-Q4_K_M-00001-of-0000")
    assert all(part.stat().st_size <= 30_000 for part in path.parent.iterdir())
    assert models.differing(path, whole) == []


def test_plans_are_taken_as_types_are(dense: Path, dense_imatrix: Imatrix, tmp_path: Path) -> None:
    given = {"imatrix": dense_imatrix.path}
    one = plan(dense, type="Q3_K_M", **given)
    plan(dense, type="Q5_K_M", **given).write(tmp_path / "plan.json")
    plans = quantize(dense, plans=[one, tmp_path / "plan.json"], out=tmp_path / "a", **given)
    types = quantize(dense, types=["Q3_K_M", "Q5_K_M"], out=tmp_path / "b", **given)
    assert [path.name for path in plans] == ["Tiny-Q3_K_M.gguf", "Tiny-Q5_K_M.gguf"]
    assert [path.read_bytes() for path in plans] == [path.read_bytes() for path in types]
    assert plans[0].stat().st_size == one.bytes
    with pytest.raises(
        PlanError, match="Q3_K_M: expected an importance matrix, found none; the plan was made for Tiny-im"
    ):
        quantize(dense, plans=[one], out=tmp_path / "c")


def test_the_same_type_twice_is_one_file(dense: Path, tmp_path: Path) -> None:
    assert quantize(dense, types=["Q4_K", "q4_k_m"], out=tmp_path) == 2 * [tmp_path / "Tiny-Q4_K_M.gguf"]


def test_settings_of_a_recipe_are_in_the_name(dense: Path, tmp_path: Path) -> None:
    (path,) = quantize(dense, types=["MP:fraction=0.5,rest=Q4_K"], out=tmp_path)
    assert re.fullmatch(r"Tiny-MP-\d{6}\.gguf", path.name)


def test_two_plans_of_one_name_are_refused(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("attn_q=q8_0\n")
    plans = [plan(dense, type="Q4_0", tensor_types=tmp_path / "types.txt"), plan(dense, type="Q4_0")]
    assert len(quantize(dense, plans=plans, out=tmp_path)) == 2
    (tmp_path / "types.txt").write_text("attn_k=q8_0\n")
    plans = [plans[0], plan(dense, type="Q4_0", tensor_types=tmp_path / "types.txt")]
    with pytest.raises(PlanError, match="outputs: expected a name for each, found two"):
        quantize(dense, plans=plans, out=tmp_path / "b")


def test_missing_importance_names_the_tensors(dense: Path, dense_imatrix: Imatrix, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match=r"IQ2_XXS: expected an importance .* covers blk\.0\.attn_q\.weight \(IQ2_XXS\)"
    ):
        quantize(dense, types=["Q8_0", "IQ2_XXS"], out=tmp_path)
    sums = {name: found for name, found in dense_imatrix.sums.items() if "ffn_up" not in name}
    part = Imatrix(sums, dense_imatrix.counts, ("t",), 10, 512)
    write(part, tmp_path / "part.gguf")
    message = r"covers blk\.0\.ffn_up\.weight \(IQ2_XXS\), found one without it\. Make an importance matrix"
    with pytest.raises(PlanError, match=message):
        quantize(dense, types=["IQ2_XXS"], imatrix=tmp_path / "part.gguf", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["part.gguf"]


def test_an_embedding_that_ggml_cannot_encode_without_importance(dense: Path, tmp_path: Path) -> None:
    """llama-quantize lets it pass and aborts."""
    (tmp_path / "types.txt").write_text("token_embd=iq2_xs\n")
    one = plan(dense, type="Q4_0", tensor_types=tmp_path / "types.txt")
    with pytest.raises(PlanError, match=r"covers token_embd\.weight \(IQ2_XS\), found none"):
        quantize(dense, plans=[one], out=tmp_path / "out", encoder="ggml")
    assert quantize(dense, plans=[one], out=tmp_path / "out")


def test_a_type_that_only_ggml_encodes(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "types.txt").write_text("ffn_up=q2_0\n")
    one = plan(dense, type="Q4_0", tensor_types=tmp_path / "types.txt")
    message = r"ffn_up\.weight: expected a type that can be encoded by quantpress, found Q2_0\. --encoder ggml encodes"
    with pytest.raises(PlanError, match=message):
        quantize(dense, plans=[one], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert quantize(dense, plans=[one], out=tmp_path / "out", encoder="ggml")


def test_what_is_not_covered_is_said(dense: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    imatrix = models.importance(dense, tmp_path / "i.gguf", embedding=False)
    progress = Progress()
    progress.note = notes.append  # type: ignore[method-assign]
    quantize(dense, types=["Q4_0"], imatrix=imatrix.path, out=tmp_path, progress=progress)
    assert notes == ["not covered by the importance matrix: token_embd.weight"]


def test_a_plan_made_without_the_importance_matrix_is_another_size(dense: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    progress = Progress()
    progress.note = notes.append  # type: ignore[method-assign]
    given: dict[str, Any] = {"imatrix": models.importance(dense, tmp_path / "i.gguf").path}
    made = plan(dense, type="Q4_0")
    [path] = quantize(dense, plans=[made], out=tmp_path, progress=progress, **given)
    size = path.stat().st_size
    assert size != made.bytes
    assert any(f"{size:,} bytes, planned {made.bytes:,}" in note for note in notes)
    notes.clear()
    quantize(dense, plans=[plan(dense, type="Q4_0", **given)], out=tmp_path, progress=progress, **given)
    assert not any("planned" in note for note in notes)
