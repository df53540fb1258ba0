"""Quantizing against `llama_model_quantize`, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from quantpress import tiles
from quantpress.encoding import ENCODERS
from quantpress.engine import Engine
from quantpress.errors import PlanError
from quantpress.imatrix import Imatrix, write
from quantpress.plan import plan
from quantpress.quantize import quantize
from quantpress.recipes import MIXES, RECIPES
from tests.oracle import llama_quantize as oracle
from tests.oracle import models, requests

# Need an imatrix. Q1_0 needs rows of a multiple of 128, which only the mixture below has.
NEED = ["Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"]


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
