"""Files of compensated tensors: that llama.cpp runs them, that they are closer, and that nothing else decides bytes."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf, moments, tiles
from quantpress.arrays import Floats
from quantpress.engine import Engine
from quantpress.errors import GGUFError, ImatrixError, InputError, PlanError
from quantpress.imatrix import Imatrix, imatrix
from quantpress.plan import plan
from quantpress.quantize import quantize
from quantpress.text import chunks
from tests.engine.test_resident import written
from tests.imatrix.moe import write_moe
from tests.oracle import models
from tests.test_compensation import seen, write_moments
from tests.test_statistics import Notes, inputs_of

UP = "blk.0.ffn_up.weight"
TYPED = ["Q4_K_M", "IQ3_XXS"]
SOME = {UP: "IQ2_S", "blk.1.attn_q.weight": "Q2_K", "blk.2.ffn_down.weight": "Q4_0", "blk.3.attn_k.weight": "TQ1_0"}


@pytest.fixture(scope="module")
def given(dense: Path, dense_imatrix: Imatrix) -> dict[str, Any]:
    """How to quantize the small model; its moments lie beside its imatrix. Of the embedding there are none."""
    assert dense_imatrix.path is not None
    write_moments(moments.beside(dense_imatrix.path), [*inputs_of(dense), seen(["token_embd.weight"], 256)])
    return {"imatrix": dense_imatrix.path, "effort": "compensated"}


@pytest.fixture(scope="module")
def demo_imatrix(bf16_gguf: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its moments beside it."""
    out = tmp_path_factory.mktemp("demo") / "I.gguf"
    return imatrix(bf16_gguf, text=prose, out=out, context=256, chunks=8, moments=True, threads=2)


@pytest.fixture(scope="module")
def moe(prose: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A mixture of experts, and its imatrix with moments beside it."""
    folder = tmp_path_factory.mktemp("moe")
    model = write_moe(folder / "moe-F32.gguf")
    out = folder / "I.gguf"
    return model, imatrix(model, text=prose, out=out, context=128, chunks=20, moments=True, threads=1)


def contradicting() -> tuple[Floats, Floats]:
    """Moments in some directions, held-out inputs in all the others: [600, 256] each."""
    draw = np.random.default_rng(4)
    basis = np.linalg.qr(draw.standard_normal((256, 256)))[0]
    first, second = (
        (draw.standard_normal((600, 128)) @ half).astype(np.float32) for half in (basis[:128], basis[128:])
    )
    return first, second


def matrices(model: Path, type: str) -> dict[str, str]:
    """Every matrix but the embedding in one type."""
    with gguf.read(model) as source:
        return {name: type for name in source.tensors if name.startswith("blk.") and "norm" not in name}


def errors(model: Path, files: list[Path], prose: Path) -> list[float]:
    """Mean squared error of the logits of text that no imatrix has seen."""
    found = []
    for path in (model, *files):
        with Engine(path, threads=2) as engine:
            window = chunks(engine, [prose], 256, limit=10)[9:]
            found.append(np.stack(list(engine.logits(window))))
    return [float(np.square(one - found[0], dtype=np.float64).mean()) for one in found[1:]]


def test_llama_cpp_runs_the_result_which_is_closer(
    bf16_gguf: Path, demo_imatrix: Path, prose: Path, tmp_path: Path
) -> None:
    """Than plain encoding in the same bytes, with the same importance matrix."""
    types = matrices(bf16_gguf, "Q3_K")
    how = {"imatrix": demo_imatrix, "threads": 2}
    found = written(bf16_gguf, types, tmp_path / "a", effort="compensated", **how)
    plain = written(bf16_gguf, types, tmp_path / "b", **how)
    with gguf.read(found) as a, gguf.read(plain) as b:
        sizes = [{name: (one.type, one.nbytes) for name, one in file.tensors.items()} for file in (a, b)]
        assert sizes[0] == sizes[1]
        assert {key: value for key, value in a.metadata.items() if key not in b.metadata} == {
            "quantize.compensated.chunks_count": gguf.Value.u32(8),
            "quantize.compensated.dataset": gguf.Value.string("prose.txt"),
        }
    ours, theirs = errors(bf16_gguf, [found, plain], prose)
    assert 0 < ours < 0.9 * theirs


def test_the_weights_in_memory_are_those_of_the_file(bf16_gguf: Path, demo_imatrix: Path, tmp_path: Path) -> None:
    """Compensated and plain in turn, with the same imatrix: neither is taken for the other."""
    types, how = SOME, {"imatrix": demo_imatrix}
    windows = np.arange(10, 42, dtype=np.int32)[None]
    expected = {}
    for effort in ("normal", "compensated"):
        file = written(bf16_gguf, types, tmp_path / effort, effort=effort, **how)
        with Engine(file) as engine:
            expected[effort] = np.stack(list(engine.logits(windows)))
    assert not np.array_equal(*expected.values())
    with Engine(bf16_gguf, resident=True) as engine:
        for effort in ("normal", "compensated", "normal"):
            engine.assign(types, effort=effort, **how)
            np.testing.assert_array_equal(np.stack(list(engine.logits(windows))), expected[effort], err_msg=effort)


def test_memory_needs_moments_too(bf16_gguf: Path, demo_imatrix: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.gguf"
    shutil.copy(demo_imatrix, alone)
    with Engine(bf16_gguf, resident=True) as engine:
        for path in (None, alone):
            engine.assign({UP: "Q4_0"}, imatrix=path)
            with pytest.raises(InputError, match="moments"):
                engine.assign({UP: "Q4_0"}, imatrix=path, effort="compensated")
        engine.assign({UP: "Q4_0"}, imatrix=alone, effort="compensated", moments=moments.beside(demo_imatrix))
        with pytest.raises(InputError, match="--effort compensated"):
            engine.assign({UP: "Q4_0"}, imatrix=alone, moments=moments.beside(demo_imatrix))


@pytest.mark.parametrize("count", [1, 3])
def test_the_bytes_do_not_depend_on_threads_tiles_or_company(
    count: int, dense: Path, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [quantize(dense, types=[type], out=tmp_path / type, threads=2, **given)[0] for type in TYPED]
    monkeypatch.setattr(tiles, "TILE", 5000)
    found = quantize(dense, types=TYPED, out=tmp_path / "b", threads=count, **given)
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]


def test_only_what_has_moments_changes(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    (ours,) = quantize(dense, types=["Q4_0"], out=tmp_path / "a", **given)
    (plain,) = quantize(dense, types=["Q4_0"], out=tmp_path / "b", imatrix=given["imatrix"])
    with gguf.read(ours) as file:
        blocks = {name for name, one in file.tensors.items() if one.type.quantized}
    assert set(models.differing(ours, plain)) == blocks
    assert UP in blocks


def test_allowed_without_moments_is_plain(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    part = write_moments(tmp_path / "part.gguf", [*inputs_of(dense, without=(UP,)), seen(["token_embd.weight"], 256)])
    with pytest.raises(PlanError, match=rf"part\.gguf: moments: .*found none of {re.escape(UP)}"):
        quantize(dense, types=["Q4_0"], out=tmp_path / "none", moments=part, **given)
    assert not (tmp_path / "none").exists()
    notes = Notes()
    how = {**given, "moments": part, "allow_plain": True, "progress": notes}
    (ours,) = quantize(dense, types=["Q4_0"], out=tmp_path / "a", **how)
    (plain,) = quantize(dense, types=["Q4_0"], out=tmp_path / "b", imatrix=given["imatrix"])
    (whole,) = quantize(dense, types=["Q4_0"], out=tmp_path / "c", **given)
    assert UP not in models.differing(ours, plain)
    assert "blk.0.attn_q.weight" in models.differing(ours, plain)
    assert models.differing(ours, whole) == [UP]
    assert f"encoded plainly, without moments: {UP}" in notes.notes
    assert any(note.startswith("compensated: ") for note in notes.notes)


def test_what_was_no_better_is_said_and_plain(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    tokens, sample = contradicting()
    contrary = replace(seen([UP], 256), tokens=(tokens,), samples=(sample,))
    rest = [*inputs_of(dense, without=(UP,)), seen(["token_embd.weight"], 256)]
    path, notes = write_moments(tmp_path / "m.gguf", [*rest, contrary]), Notes()
    (ours,) = quantize(dense, types=["Q4_0"], out=tmp_path / "a", moments=path, progress=notes, **given)
    (plain,) = quantize(dense, types=["Q4_0"], out=tmp_path / "b", imatrix=given["imatrix"])
    assert UP not in models.differing(ours, plain)
    assert "compensated: 10 of 11 matrices" in notes.notes
    assert [note for note in notes.notes if "no better" in note and note.endswith(f": {UP} in Q4_0")]


def test_experts_that_are_no_better_are_counted(tmp_path: Path) -> None:
    """Each of them, not their tensor."""
    model = models.save(tmp_path / "Tiny-MoE-BF16.gguf", models.MIXTURE, layers=1)
    name = "blk.0.ffn_up_exps.weight"
    tokens, sample = contradicting()
    experts = seen([name], 256, tokens=(600,) * 8)
    sums, held_out = list(experts.tokens), list(experts.samples)
    for contrary in (2, 5):
        sums[contrary], held_out[contrary] = tokens, sample
    inputs = [*inputs_of(model, without=(name,)), replace(experts, tokens=tuple(sums), samples=tuple(held_out))]
    path, notes = write_moments(tmp_path / "m.gguf", inputs), Notes()
    types = dict.fromkeys(["blk.0.attn_v.weight", "blk.0.ffn_gate_exps.weight", name], "Q4_0")
    written(model, types, tmp_path / "out", effort="compensated", moments=path, progress=notes)
    assert any(note.startswith("compensated: 15 of 17 matrices") for note in notes.notes), notes.notes


def test_a_plan_may_keep_tensors_plain(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    names = (UP, "blk.0.attn_q.weight")
    one = plan(dense, type="Q4_0", imatrix=given["imatrix"])
    (ours,) = quantize(dense, plans=[replace(one, plain=names)], out=tmp_path / "a", **given)
    (plain,) = quantize(dense, plans=[one], out=tmp_path / "b", imatrix=given["imatrix"])
    (whole,) = quantize(dense, plans=[one], out=tmp_path / "c", **given)
    assert sorted(models.differing(ours, whole)) == sorted(names)
    assert sorted(set(models.differing(whole, plain)) - set(models.differing(ours, plain))) == sorted(names)


def test_a_tensor_that_a_plan_keeps_plain_needs_no_moments(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    part = write_moments(tmp_path / "part.gguf", [*inputs_of(dense, without=(UP,)), seen(["token_embd.weight"], 256)])
    one = replace(plan(dense, type="Q4_0", imatrix=given["imatrix"]), plain=(UP,))
    assert quantize(dense, plans=[one], out=tmp_path / "a", moments=part, **given)


def test_experts_of_different_token_counts(moe: tuple[Path, Path], tmp_path: Path) -> None:
    """From text to a file that llama.cpp runs."""
    model, matrix = moe
    with moments.read(moments.beside(matrix)) as found:
        counts = found.entries[found.input_of("blk.0.ffn_up_exps.weight")].counts
    assert len(set(counts.tolist())) > 4
    assert counts.min() > 0
    notes = Notes()
    types = {f"blk.0.ffn_{part}_exps.weight": "Q4_0" for part in ("gate", "up", "down")}
    ours = written(model, types, tmp_path / "a", imatrix=matrix, effort="compensated", threads=1, progress=notes)
    again = written(model, types, tmp_path / "b", imatrix=matrix, effort="compensated", threads=3)
    plain = written(model, types, tmp_path / "c", imatrix=matrix)
    assert ours.read_bytes() == again.read_bytes()
    assert set(models.differing(ours, plain)) <= types.keys()
    assert "blk.0.ffn_up_exps.weight" in models.differing(ours, plain)
    assert any("of 24 matrices" in note for note in notes.notes)
    tokens = np.arange(3, 99, dtype=np.int32)[None]
    logits = []
    for path in (model, ours, plain):
        with Engine(path) as engine:
            logits.append(np.stack(list(engine.logits(tokens))))
    ours_, theirs = (np.square(one - logits[0]).mean() for one in logits[1:])
    assert 0 < ours_ < 1.5 * theirs  # tokens unlike those of the text


@pytest.mark.parametrize("tied", [True, False])
def test_what_was_collected_is_enough(
    tied: bool, bf16_gguf: Path, demo_imatrix: Path, moe: tuple[Path, Path], tmp_path: Path
) -> None:
    """Of every tensor that the importance matrix covers, an output too, there are moments."""
    model, matrix = (bf16_gguf, demo_imatrix) if tied else moe
    types = {"token_embd.weight" if tied else "output.weight": "Q4_0", "blk.0.attn_q.weight": "Q4_0"}
    notes = Notes()
    written(model, types, tmp_path, imatrix=matrix, effort="compensated", progress=notes)
    assert any("of 2 matrices" in note for note in notes.notes)


def test_ggml_s_encoder_refuses_the_effort(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="effort of ggml: expected one of normal, found compensated"):
        quantize(dense, types=["Q4_0"], out=tmp_path / "out", encoder="ggml", **given)
    assert not (tmp_path / "out").exists()


def damaged(whole: Path, path: Path, suffix: str, value: float) -> Path:
    """A copy with another first value in the sums or the sample of one input."""
    shutil.copy(whole, path)
    with gguf.read(whole) as file:
        at = file.tensors[UP + suffix].offset
    with path.open("r+b") as out:
        out.seek(at)
        out.write(np.float32(value).tobytes())
    return path


@pytest.mark.parametrize(
    ("suffix", "value", "words"),
    [
        (".moments", np.nan, "expected finite values, found nan"),
        (".moments", np.inf, "expected finite values, found inf"),
        (".moments", -1.0, "expected a diagonal that is not negative"),
        (".sample", np.nan, "expected finite values, found nan"),
    ],
)
def test_damaged_moments(
    suffix: str, value: float, words: str, dense: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    path = damaged(moments.beside(given["imatrix"]), tmp_path / "bad.gguf", suffix, value)
    for threads in (1, 3):
        with pytest.raises(ImatrixError, match=rf"bad\.gguf: tensor {re.escape(UP + suffix)}: matrix 0: {words}"):
            quantize(dense, types=["Q4_0"], out=tmp_path / "out", moments=path, threads=threads, **given)
        assert list((tmp_path / "out").iterdir()) == []


def test_moments_that_are_no_second_moments(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    """Finite, with a positive diagonal, but of no inputs whatever: a product larger than the squares allow."""
    shutil.copy(moments.beside(given["imatrix"]), tmp_path / "bad.gguf")
    with gguf.read(tmp_path / "bad.gguf") as file:
        at = file.tensors[UP + ".moments"].offset
    with (tmp_path / "bad.gguf").open("r+b") as out:
        out.seek(at + 4 * 7)
        out.write(np.float32(1e12).tobytes())
    with pytest.raises(ImatrixError, match=r"bad\.gguf: .*blk\.0\.ffn_up\.weight"):
        quantize(dense, types=["Q4_0"], out=tmp_path / "out", moments=tmp_path / "bad.gguf", **given)
    assert list((tmp_path / "out").iterdir()) == []


def test_truncated_moments(dense: Path, given: dict[str, Any], tmp_path: Path) -> None:
    whole, path = moments.beside(given["imatrix"]).read_bytes(), tmp_path / "cut.gguf"
    for size in (100, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(GGUFError, match=r"cut\.gguf"):
            quantize(dense, types=["Q4_0"], out=tmp_path / "out", moments=path, **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("tensor", "row"), [(UP, 50), ("blk.0.ffn_down.weight", 63)])
def test_a_weight_that_is_no_number(
    tensor: str, row: int, dense: Path, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is named, in whichever tile it is."""
    monkeypatch.setattr(tiles, "TILE", 5000)
    model = tmp_path / "Tiny-BF16.gguf"
    shutil.copy(dense, model)
    with gguf.read(dense) as source, model.open("r+b") as file:
        file.seek(source.tensors[tensor].offset + row * 512 + 10)
        file.write(b"\xc0\x7f")
    with pytest.raises(InputError, match=rf"Tiny-BF16\.gguf: tensor {tensor}, row {row}, column 5: expected a finite"):
        quantize(model, types=["Q4_0"], out=tmp_path / "out", **given)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_expert_s_weight_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is counted over all experts, also where another tile of the expert is encoded first."""
    monkeypatch.setattr(tiles, "TILE", 1024)  # four rows
    model = models.save(tmp_path / "Tiny-BF16.gguf", models.MIXTURE, layers=1)
    path = write_moments(tmp_path / "m.gguf", inputs_of(model))
    name, row = "blk.0.ffn_up_exps.weight", 3 * 13 + 11
    with gguf.read(model) as source, model.open("r+b") as file:
        file.seek(source.tensors[name].offset + row * 512 + 10)
        file.write(b"\xc0\x7f")
    with pytest.raises(InputError, match=rf"Tiny-BF16\.gguf: tensor {name}, row {row}, column 5: expected a finite"):
        written(model, {name: "Q4_0"}, tmp_path / "out", effort="compensated", moments=path)
