"""Quantizing against `llama_model_quantize`, byte for byte; and what must not happen."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quantpress import gguf, tiles
from quantpress.arrays import Bytes
from quantpress.encoding import ENCODERS, Tile
from quantpress.engine import Engine
from quantpress.errors import DiskFullError, GGUFError, ImatrixError, InputError, OutputError, PlanError
from quantpress.formats import TensorType
from quantpress.imatrix import Imatrix, write
from quantpress.plan import plan
from quantpress.progress import Progress
from quantpress.quantize import quantize
from quantpress.recipes import MIXES, RECIPES
from tests.oracle import llama_quantize as oracle
from tests.oracle import models, requests

# Need an imatrix. Q1_0 needs rows of a multiple of 128, which only the mixture below has.
NEED = ["Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("dense") / "Tiny-BF16.gguf")


@pytest.fixture(scope="module")
def dense_imatrix(dense: Path) -> Imatrix:
    return models.importance(dense, dense.with_name("Tiny-imatrix.gguf"))


def assert_equal(model: Path, folder: Path, types: Sequence[str], imatrix: Imatrix | None = None) -> None:
    """Ours in one pass against theirs one by one."""
    (folder / "theirs").mkdir()
    asked = requests.jobs(model, folder / "theirs", types, imatrix)
    with oracle.running(asked) as results:
        given = {"imatrix": imatrix.path if imatrix else None, "encoder": "ggml", "threads": 2}
        ours = quantize(model, types=types, out=folder / "ours", **given)
        assert_results(asked, results(), ours)


def assert_results(asked: Sequence[oracle.Job], theirs: Sequence[oracle.Result], ours: Sequence[Path]) -> None:
    for job, result, path in zip(asked, theirs, ours, strict=True):
        assert result.status == 0, result.log
        assert models.differing(path, Path(job.out)) == [], path.name


def test_every_mix_with_imatrix(
    dense: Path, dense_imatrix: Imatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, because both would take their time to make the grids of the IQ types."""
    monkeypatch.setattr(tiles, "TILE", 1 << 16)
    types = [name for name in RECIPES if name != "Q1_0"]
    given = {"imatrix": dense_imatrix.path, "encoder": "ggml", "threads": 2}
    ours = quantize(dense, types=types, out=tmp_path / "ours", **given)
    (tmp_path / "theirs").mkdir()
    asked = requests.jobs(dense, tmp_path / "theirs", types, dense_imatrix)
    assert_results(asked, oracle.run_here(asked), ours)


def test_every_mix_without_imatrix(dense: Path, tmp_path: Path) -> None:
    assert_equal(dense, tmp_path, [name for name in RECIPES if name not in (*NEED, "Q1_0")])


@pytest.mark.parametrize("type", ["F32", "F16"])
def test_other_float_sources(type: str, dense_imatrix: Imatrix, tmp_path: Path) -> None:
    model = models.save(tmp_path / f"Tiny-{type}.gguf", type=type)
    assert_equal(model, tmp_path, ["F32", "F16", "BF16", "Q8_0", "Q4_K_M", "IQ4_NL", "Q4_0"], dense_imatrix)


def test_experts_have_their_own_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a few rows, so that some would cross from an expert to the next."""
    monkeypatch.setattr(tiles, "TILE", 2048)
    model = models.save(tmp_path / "Tiny-MoE-BF16.gguf", models.MIXTURE)
    imatrix = models.importance(model, tmp_path / "i.gguf")
    assert_equal(model, tmp_path, ["Q4_K_M", "Q2_K_S", "IQ3_XXS", "IQ3_M", "Q5_0", "Q1_0", "MXFP4_MOE"], imatrix)


def test_experts_without_importance(tmp_path: Path) -> None:
    model = models.save(tmp_path / "Tiny-MoE-F32.gguf", models.MIXTURE, "F32")
    assert_equal(model, tmp_path, ["Q4_K_M", "MXFP4_MOE", "IQ3_M"])


def test_the_demo_model(bf16_gguf: Path, tmp_path: Path) -> None:
    imatrix = models.importance(bf16_gguf, tmp_path / "i.gguf", embedding=False)
    assert_equal(bf16_gguf, tmp_path, ["Q8_0", "Q4_K_M", "Q4_0", "Q6_K_L"], imatrix)


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight"])
def test_the_output_s_importance_counts(name: str, tmp_path: Path) -> None:
    """A tied output's is the embedding's."""
    tied = name == "token_embd.weight"
    shapes = {tensor: shape for tensor, shape in models.DENSE.items() if not (tied and tensor == "output.weight")}
    model = models.save(tmp_path / "Tiny-BF16.gguf", shapes)
    whole = models.importance(model, tmp_path / "i.gguf", embedding=tied)
    types = ["Q4_K_M", "IQ4_XS", "Q3_K_S"]
    assert_equal(model, tmp_path, types, whole)
    sums = {entry: found for entry, found in whole.sums.items() if entry != name}
    write(Imatrix(sums, whole.counts, ("t",), 10, 512), tmp_path / "without.gguf")
    for encoder in ENCODERS:
        given = {"types": types, "encoder": encoder}
        ours = quantize(model, imatrix=tmp_path / "i.gguf", out=tmp_path / encoder, **given)
        bare = quantize(model, imatrix=tmp_path / "without.gguf", out=tmp_path / f"{encoder}-without", **given)
        assert [models.differing(a, b) for a, b in zip(ours, bare, strict=True)] == 3 * [[name]]


def test_an_embedding_s_importance_of_another_size_is_ignored(dense: Path, tmp_path: Path) -> None:
    imatrix = models.importance(dense, tmp_path / "i.gguf")
    imatrix.sums["token_embd.weight"] = np.ones((1, 40), np.float32)  # type: ignore[index]
    write(imatrix, tmp_path / "i.gguf")
    assert_equal(dense, tmp_path, ["Q4_K_M", "IQ4_XS"], imatrix)
    (tmp_path / "types.txt").write_text("token_embd=iq2_xs\n")  # which ggml cannot encode without
    one = plan(dense, type="Q4_0", tensor_types=tmp_path / "types.txt")
    with pytest.raises(PlanError, match=r"covers token_embd\.weight \(IQ2_XS\), found one without it"):
        quantize(dense, plans=[one], imatrix=tmp_path / "i.gguf", out=tmp_path / "out", encoder="ggml")


def test_requantizing_is_refused_unless_asked(dense: Path, tmp_path: Path) -> None:
    (first,) = quantize(dense, types=["Q8_0"], out=tmp_path)
    with pytest.raises(PlanError, match=r"Q8_0\.gguf: tensor token_embd\.weight: expected a float type, found Q8_0"):
        quantize(first, types=["Q4_K_M"], out=tmp_path / "again")
    (ours,) = quantize(first, types=["Q4_K_M"], out=tmp_path / "again", allow_requantize=True, encoder="ggml")
    theirs = tmp_path / "theirs.gguf"
    job = oracle.Job(str(first), str(theirs), MIXES["Q4_K_M"].file_type, allow_requantize=True)
    assert oracle.run([job])[0].status == 0
    assert models.differing(ours, theirs) == []


def test_stock_llama_cpp_runs_the_result(bf16_gguf: Path, tmp_path: Path) -> None:
    files = quantize(bf16_gguf, types=["Q8_0", "Q2_K"], out=tmp_path)
    tokens = np.arange(10, 42, dtype=np.int32)[None]
    logits = []
    for path in (bf16_gguf, *files):
        with Engine(path) as engine:
            logits.append(next(iter(engine.logits(tokens))))
    errors = [float(np.abs(found - logits[0]).mean()) for found in logits[1:]]
    assert 0 < errors[0] < 0.2 * errors[1] < 1


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


def test_an_imatrix_of_another_model(dense: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    imatrix = models.importance(bf16_gguf, tmp_path / "i.gguf")
    with pytest.raises(ImatrixError, match=r"i\.gguf: .*expected .*Tiny-BF16\.gguf"):
        quantize(dense, types=["Q4_0"], imatrix=imatrix.path, out=tmp_path / "out")


@pytest.mark.parametrize(("tensor", "type"), [("blk.0.ffn_up.weight", "Q4_K_M"), ("output_norm.weight", "Q8_0")])
def test_nan_in_a_weight(tensor: str, type: str, dense: Path, tmp_path: Path) -> None:
    model = tmp_path / "Tiny-BF16.gguf"
    shutil.copy(dense, model)
    with gguf.read(dense) as source, model.open("r+b") as file:
        file.seek(source.tensors[tensor].offset + 40)
        file.write(b"\xc0\x7f\xc0\x7f")
    with pytest.raises(InputError, match=rf"Tiny-BF16\.gguf: tensor {tensor}, row 0, column \d+: expected a finite"):
        quantize(model, types=[type], out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_to_do_and_bad_settings(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="types: expected at least one type or plan"):
        quantize(dense, out=tmp_path)
    with pytest.raises(PlanError, match=r"expected one of .*Q4_K_M.*found Q4_K_Q"):
        quantize(dense, types=["Q4_K_Q"], out=tmp_path)
    with pytest.raises(PlanError, match="encoder: expected one of quantpress, ggml, found none"):
        quantize(dense, types=["Q4_0"], out=tmp_path, encoder="none")
    with pytest.raises(PlanError, match="effort of quantpress: expected one of fast, normal, best, found slow"):
        quantize(dense, types=["Q4_0"], out=tmp_path, effort="slow")
    with pytest.raises(PlanError, match="effort of ggml: expected one of normal, found best"):
        quantize(dense, types=["Q4_0"], out=tmp_path, encoder="ggml", effort="best")
    with pytest.raises(PlanError, match="threads: expected at least 1, found 0"):
        quantize(dense, types=["Q4_0"], out=tmp_path, threads=0)
    with pytest.raises(GGUFError):
        quantize(tmp_path / "none.gguf", types=["Q4_0"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_place_of_the_source(dense: Path, tmp_path: Path) -> None:
    model = tmp_path / "Tiny-BF16.gguf"
    shutil.copy(dense, model)
    with pytest.raises(PlanError, match=r"Tiny-BF16\.gguf: output: expected another file .* Choose another folder"):
        quantize(model, types=["Q4_0", "BF16"], out=tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(PlanError, match="output: expected another file than the source"):
        quantize(tmp_path / "linked" / model.name, types=["BF16"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".gguf"] == [model.name]
    assert model.read_bytes() == dense.read_bytes()


def test_a_part_in_place_of_a_part_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "Tiny-BF16").mkdir()
    source = models.save(tmp_path / "Tiny-BF16" / "Tiny-BF16.gguf", split_bytes=60_000)
    with pytest.raises(PlanError, match="output: expected another file than the source"):
        quantize(source, types=["BF16"], out=tmp_path, split_bytes=60_000)


class Interrupted(Progress):
    """Ctrl-C after some tiles."""

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Any]:
        def advance(amount: int) -> None:
            self.tiles -= 1
            if not self.tiles:
                raise KeyboardInterrupt

        yield advance


def test_an_interrupted_run_leaves_nothing(dense: Path, tmp_path: Path) -> None:
    old = tmp_path / "Tiny-Q4_0.gguf"
    old.write_bytes(b"an older file")
    with pytest.raises(KeyboardInterrupt):
        quantize(dense, types=["Q4_0", "Q8_0"], out=tmp_path, progress=Interrupted(3))
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == b"an older file"
    quantize(dense, types=["Q4_0", "Q8_0"], out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [old.name, "Tiny-Q8_0.gguf"]
    assert gguf.read(old).get("general.file_type") == MIXES["Q4_0"].file_type


def test_a_disk_too_small_for_all_files_together(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [path.stat().st_size for path in quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "a")]
    free = sum(sizes) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(DiskFullError, match=f"{sum(sizes):,} bytes needed, {free:,} free") as raised:
        quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "b")
    assert (raised.value.needed, raised.value.free) == (sum(sizes), free)
    assert list((tmp_path / "b").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = os.pwrite, []

    def pwrite(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DiskFullError, match="bytes needed"):
        quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "b")
    assert len(calls) > 12
    assert list((tmp_path / "b").iterdir()) == []


def test_a_folder_that_cannot_be_made(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the folder cannot be made"):
        quantize(dense, types=["Q8_0"], out=tmp_path / "file" / "out")


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A tensor of 256 MB in BF16 (a sparse file) goes through a process that grows by less than a quarter of that."""
    from tests.recipes.shapes import write as write_header

    shapes = {"token_embd.weight": (4096, 64), "blk.0.ffn_up.weight": (4096, 32768)}
    keys = {"block_count": 1, "embedding_length": 4096, "attention.head_count": 8, "attention.head_count_kv": 8}
    model = write_header(tmp_path / "large.gguf", "llama", shapes, keys)
    code = (
        "import sys\n"
        "from quantpress.quantize import quantize\n"
        "from tests.oracle.memory import peak\n"
        "quantize(sys.argv[1], types=['Q4_0'], out=sys.argv[3], threads=2)\n"
        "before = peak()\n"
        "quantize(sys.argv[2], types=['Q4_0', 'TQ1_0', 'BF16'], out=sys.argv[3], threads=2)\n"
        "print(peak() - before)\n"
    )
    small = models.save(tmp_path / "small.gguf")
    command = [sys.executable, "-c", code, str(small), str(model), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True, cwd=oracle.ROOT)
    assert int(done.stdout) < 64e6
