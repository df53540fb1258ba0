"""Collected moments: what they are of, who shares them, passes, interrupted runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf, moments
from quantpress.convert import convert
from quantpress.engine import Engine, Tokens
from quantpress.engine.inputs import Input
from quantpress.errors import ImatrixError, InputError
from quantpress.imatrix import imatrix, merge, partial_path
from quantpress.imatrix import read as read_imatrix
from quantpress.moments import merge_beside
from quantpress.moments.collect import Collection, collect, held_out, passes
from quantpress.origin import Header
from quantpress.statistics import open_statistics
from quantpress.text import chunks
from tests.convert.test_architectures import checkpoint
from tests.imatrix.moe import write_moe
from tests.imatrix.test_collect import Listener
from tests.moments.conftest import SETTINGS


def windows_of(model: Path, text: Path, context: int, limit: int) -> Tokens:
    with Engine(model, vocab_only=True) as engine:
        return chunks(engine, [text], context, limit=limit)


def test_the_importance_matrix_is_the_same(collected: Path, moe: Path, prose: Path, tmp_path: Path) -> None:
    plain = imatrix(moe, text=prose, out=tmp_path / "I.gguf", **SETTINGS)
    assert plain.read_bytes() == collected.read_bytes()
    with moments.read(moments.beside(collected)) as found:
        sides = [(one.chunk_count, one.chunk_size, one.datasets) for one in (found, read_imatrix(collected))]
        assert sides == [(20, 128, ("prose.txt",))] * 2
    assert sorted(path.name for path in collected.parent.iterdir()) == ["I.gguf", "I.moments.gguf"]


def test_a_run_whose_last_tokens_are_not_seen(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    """Of three windows decoded together llama.cpp takes 170 tokens each at a time; the two left of each go unseen."""
    out = imatrix(f32_gguf, text=prose, out=tmp_path / "I.gguf", chunks=3, moments=True)
    merged = merge([out, out], tmp_path / "twice.gguf")
    assert merge_beside([out, out], merged) is not None
    for path, count in ((out, 2), (merged, 5)):
        assert read_imatrix(path).chunk_count == count
        with gguf.read(f32_gguf) as model, open_statistics(model, path, "compensated") as found:
            assert found.compensation is not None
            assert found.compensation.moments.chunk_count == count + 1


def test_what_the_first_attention_sees(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    """From the file's bytes, in float64: the token's embedding × √hidden, normalised. The last chunk is held out."""
    out = imatrix(f32_gguf, text=prose, out=tmp_path / "I.gguf", chunks=4, moments=True)
    tokens = windows_of(f32_gguf, prose, 512, 4)
    with gguf.read(f32_gguf) as model, moments.read(moments.beside(out)) as found:
        embedding, norm = (model.data(f"{name}.weight").view(np.float32) for name in ("token_embd", "blk.0.attn_norm"))
        epsilon = model.get("gemma3.attention.layer_norm_rms_epsilon")
        x = embedding[tokens].astype(np.float64) * np.sqrt(embedding.shape[1])
        x *= norm.reshape(-1) / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
        summed = x[:3].reshape(-1, x.shape[-1])
        for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"):
            one = found.of(model.tensors[name], 0)
            assert one is not None
            assert one.tokens == len(summed)
            scale = np.sqrt(np.outer(*[(summed**2).mean(axis=0)] * 2))
            assert (np.abs(one.blocks[0] - summed.T @ summed / len(summed)) <= 1e-5 * scale).all()
            np.testing.assert_allclose(one.sample, x[3], rtol=1e-5, atol=1e-5)
        moments.check_model(found, model)


def test_the_diagonal_is_the_importance_of_the_same_tokens(moe: Path, prose: Path, tmp_path: Path) -> None:
    """Experts with their own counts, too; the collector of squares gets the same chunks without 7 and 15."""
    rest = [i for i in range(20) if i not in (7, 15)]
    with Engine(moe, threads=1, sequences=1) as engine:  # a chunk a batch: it is then the same with others or without
        tokens = chunks(engine, [prose], 128, limit=20)
        ((_, squares),) = engine.activations(tokens[rest], every=20)
        out = collect(engine, tokens, Collection(tmp_path / "M.gguf", Header((), 20, 128), "x"))
    with gguf.read(moe) as model, moments.read(out) as found:
        assert set(found.names) == squares.keys()
        for name, (sums, counts) in squares.items():
            for matrix, (row, count) in enumerate(zip(sums, counts, strict=True)):
                one = found.of(model.tensors[name], matrix)
                assert one is not None
                assert one.tokens == count
                assert len(one.blocks) == 1
                np.testing.assert_allclose(one.blocks[0].diagonal() * count, row, rtol=2e-6, err_msg=name)
                assert np.linalg.eigvalsh(one.blocks[0].astype(np.float64)).min() > -1e-6 * row.max() / count
        assert found.entries["blk.0.attn_q.weight"].sampled.tolist() == [256]  # of all 256 held-out tokens
        assert found.entries["blk.0.ffn_gate_exps.weight"].sampled.sum() == 2 * 256


LAYER = {
    "llama-3.1": [("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",)],
    "phi": [("attn_qkv",), ("attn_output",), ("ffn_up",), ("ffn_down",)],
    "qwen3-moe": [
        ("attn_q", "attn_k", "attn_v"),
        ("attn_output",),
        ("ffn_gate_inp",),
        ("ffn_gate_exps", "ffn_up_exps"),
        ("ffn_down_exps",),
    ],
    "deepseek-v3": [
        ("attn_q_a", "attn_kv_a_mqa"),
        ("attn_q_b",),
        ("attn_k_b",),
        ("attn_v_b",),
        ("attn_output",),
        ("ffn_gate_inp", "ffn_gate_shexp", "ffn_up_shexp"),
        ("ffn_gate_exps", "ffn_up_exps"),
        ("ffn_down_exps",),
        ("ffn_down_shexp",),
    ],
}


@pytest.mark.parametrize("name", sorted(LAYER))
def test_who_shares_an_input(name: str, prose: Path, tmp_path: Path) -> None:
    """Found from the graph; on MLA and experts also collected, from several sequences at a time."""
    model = convert(checkpoint(name, tmp_path), tmp_path / "model.gguf", type="F32")
    with Engine(model, threads=1, sequences=4) as engine:
        tokens = chunks(engine, [prose], 64, limit=9)
        inputs = engine.inputs(tokens[0])
        last = max(int(one.name.split(".")[1]) for one in inputs)
        found = {
            frozenset(weight.split(".", 2)[2].removesuffix(".weight") for weight in one.weights): one
            for one in inputs
            if one.name.startswith(f"blk.{last}.")
        }
        assert found.keys() == {frozenset(group) for group in LAYER[name]}
        out = collect(engine, tokens, Collection(tmp_path / "M.gguf", Header((), 9, 64), "x"))
    with gguf.read(model) as file, moments.read(out) as made:
        moments.check_model(made, file)
        for weight in made.names:
            tensor = file.tensors[weight]
            counts = made.entries[made.input_of(weight)].counts
            assert len(counts) == tensor.matrices
            if "_exps" not in weight:
                assert set(counts.tolist()) == {8 * 64}
                assert made.entries[made.input_of(weight)].sampled.tolist() == [64] * tensor.matrices


def test_the_chunks_that_are_held_out() -> None:
    assert held_out(1) == []
    assert held_out(2) == [1]
    assert held_out(7) == [6]
    assert held_out(8) == [7]
    assert held_out(17) == [7, 15]


def test_one_chunk_has_no_sample(moe: Path, prose: Path, tmp_path: Path) -> None:
    out = imatrix(moe, text=prose, out=tmp_path / "I.gguf", moments=True, **SETTINGS | {"chunks": 1})
    with gguf.read(moe) as model, moments.read(moments.beside(out)) as found:
        one = found.of(model.tensors["blk.0.attn_q.weight"], 0)
        assert one is not None
        assert one.sample.shape == (0, 64)
        assert one.tokens == 128


def test_as_many_passes_as_the_memory_asks_for(collected: Path, moe: Path, prose: Path, tmp_path: Path) -> None:
    """Experts are spread over passes, and nothing changes; nor does the number of threads."""
    progress = Listener()
    settings = SETTINGS | {"threads": 2, "moments_memory": 3_000_000}
    out = imatrix(moe, text=prose, out=tmp_path / "I.gguf", moments=True, progress=progress, **settings)
    count = int(re.findall(r"(\d+) passes over the text", progress.notes[0])[0])
    assert count > 2
    assert progress.done == progress.total == 20 * count
    assert out.read_bytes() == collected.read_bytes()
    assert moments.beside(out).read_bytes() == moments.beside(collected).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["I.gguf", "I.moments.gguf"]


def test_passes_hold_every_matrix_once_and_no_more_than_fits() -> None:
    inputs = [
        Input("a", ("a",), 512, 1, 1, False),
        Input("b", ("b", "c"), 300, 16, 2, True),
        Input("d", ("d",), 2000, 1, 1, False),
    ]
    job = Collection(Path("M.gguf"), Header((), 8, 64), "", memory=80_000_000, width=1024)
    plan = passes(inputs, job, 64)
    seen = [(one.input.name, matrix) for wanted in plan for one in wanted for matrix in range(one.first, one.last)]
    assert seen == [("a", 0), *(("b", matrix) for matrix in range(16)), ("d", 0)]
    assert [one.blocks for wanted in plan for one in wanted if one.input.name == "d"] == [(1024, 976)]
    assert len(plan) == 1
    small = Collection(Path("M.gguf"), Header((), 8, 64), "", memory=25_000_000, width=1024)
    assert len(passes(inputs, small, 64)) > 1
    tiny = Collection(Path("M.gguf"), Header((), 8, 64), "", memory=1_000_000)
    with pytest.raises(
        InputError, match=r"moments-memory: expected at least .* MB, for one matrix of a, found 1\.00 MB"
    ):
        passes(inputs, tiny, 64)


@pytest.mark.parametrize("stop_at", [10, 30])
def test_an_interrupted_run_goes_on(stop_at: int, collected: Path, moe: Path, prose: Path, tmp_path: Path) -> None:
    """Stopped in the first pass, which starts again, and in the second, which alone does."""
    out, settings = tmp_path / "I.gguf", SETTINGS | {"moments_memory": 3_000_000}
    with pytest.raises(KeyboardInterrupt):
        imatrix(moe, text=prose, out=out, moments=True, progress=Listener(stop_at), **settings)
    part, partial = tmp_path / "I.moments.gguf.pass-1.partial", partial_path(out)
    assert set(tmp_path.iterdir()) == ({part, partial} if stop_at > 20 else set())
    progress = Listener()
    imatrix(moe, text=prose, out=out, moments=True, progress=progress, **settings)
    assert (f"{part}: going on after this pass" in progress.notes) == (stop_at > 20)
    assert out.read_bytes() == collected.read_bytes()
    assert moments.beside(out).read_bytes() == moments.beside(collected).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["I.gguf", "I.moments.gguf"]


@pytest.mark.parametrize("damage", ["another text", "bytes"])
def test_a_pass_of_another_run_starts_again(
    damage: str, collected: Path, moe: Path, prose: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "out" / "I.gguf", SETTINGS | {"moments_memory": 3_000_000}
    out.parent.mkdir()
    other = tmp_path / "other.txt"
    other.write_text(prose.read_text(encoding="utf-8").replace("the", "a"), encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        imatrix(moe, text=other, out=out, moments=True, progress=Listener(30), **settings)
    part = out.parent / "I.moments.gguf.pass-1.partial"
    text = prose if damage == "another text" else other
    if damage == "bytes":
        part.write_bytes(part.read_bytes()[:3000])
    progress = Listener()
    imatrix(moe, text=text, out=out, moments=True, progress=progress, **settings)
    assert any(note.endswith("starting again") for note in progress.notes)
    if damage == "another text":
        assert moments.beside(out).read_bytes() == moments.beside(collected).read_bytes()


def test_wide_inputs_in_diagonal_blocks(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"text": prose, "chunks": 2, "moments": True}
    whole = imatrix(f32_gguf, out=tmp_path / "whole.gguf", **settings)
    parts = imatrix(f32_gguf, out=tmp_path / "parts.gguf", moments_width=600, **settings)
    with (
        gguf.read(f32_gguf) as model,
        moments.read(moments.beside(whole)) as full,
        moments.read(moments.beside(parts)) as blocked,
    ):
        for name in ("blk.2.ffn_down.weight", "blk.2.ffn_up.weight"):
            tensor = model.tensors[name]
            a, b = full.of(tensor, 0), blocked.of(tensor, 0)
            assert a is not None
            assert b is not None
            assert [len(block) for block in b.blocks] == ([512, 512] if tensor.cols == 1024 else [256])
            for i, block in enumerate(b.blocks):
                part = slice(512 * i, 512 * i + len(block))
                np.testing.assert_allclose(block, a.blocks[0][part, part], rtol=1e-4, atol=1e-5)
            assert np.array_equal(a.sample, b.sample)


def test_settings_that_cannot_be(moe: Path, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="moments-width: expected at least 256 columns, found 255"):
        imatrix(moe, text=prose, out=tmp_path / "I.gguf", moments=True, moments_width=255)
    with pytest.raises(InputError, match=r"moments-memory: expected at least .*, for one matrix of blk"):
        imatrix(moe, text=prose, out=tmp_path / "I.gguf", moments=True, moments_memory=1000, **SETTINGS)


def test_older_moments_beside_are_named(moe: Path, prose: Path, tmp_path: Path) -> None:
    out, progress = tmp_path / "I.gguf", Listener()
    moments.beside(out).touch()
    imatrix(moe, text=prose, out=out, progress=progress, **SETTINGS | {"chunks": 1})
    assert progress.notes == [f"{moments.beside(out)}: of an earlier run, not of this I.gguf: remove it"]


def test_another_model(collected: Path, moe: Path, f32_gguf: Path, tmp_path: Path) -> None:
    with moments.read(moments.beside(collected)) as found:
        with gguf.read(moe) as model:
            moments.check_model(found, model)
        with gguf.read(f32_gguf) as model, pytest.raises(ImatrixError, match="They were made from another model"):
            moments.check_model(found, model)
        with gguf.read(write_moe(tmp_path / "same.gguf", seed=3)) as model:
            model.tensors = {name: tensor for name, tensor in model.tensors.items() if "exps" not in name}
            with pytest.raises(ImatrixError, match=r"ffn_down_exps\.weight: expected a weight of .*, found none"):
                moments.check_model(found, model)


def test_passes_of_a_dense_model_stop_early(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    """What follows the last wanted input is not evaluated, in any micro-batch, and nothing changes."""
    files = []
    with Engine(f32_gguf, sequences=2) as engine:
        tokens = chunks(engine, [prose], 512, limit=4)
        for memory in (4_000_000_000, 40_000_000):
            job = Collection(tmp_path / f"{memory}.gguf", Header((), 4, 512), "x", memory)
            files.append(collect(engine, tokens, job).read_bytes())
        assert (tmp_path / "40000000.gguf.pass-3.partial").exists()
        whole = next(engine.logits(tokens[:1]))
        assert np.isfinite(whole).all()
    assert files[0] == files[1]
