"""Our sums against those of the real llama-imatrix on the same text.

They agree to 1e-4 where llama.cpp is built for the instruction set of the reference. Built for another, llama-imatrix
differs from itself in single columns (4.5e-4 between AVX2 and AVX-512, measured), but not in a tensor as a whole.
It sums in float32, which loses 1e-4 after about 50 chunks of 512 tokens; we sum in float64. What goes into the first
layer's attention depends on no instruction set: its sums are computed here, from the file's bytes.
"""

import json
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from gguf import GGUFReader

from quantpress import gguf
from quantpress.convert import convert
from quantpress.engine import Engine, about, activations
from quantpress.engine.messages import Settings
from quantpress.engine.session import Session
from quantpress.imatrix import Imatrix, imatrix, read
from quantpress.text import chunks
from tests.convert.test_architectures import checkpoint


@pytest.fixture(scope="module")
def same_build(reference: Path) -> bool:
    facts = json.loads((reference / "reference.json").read_text())
    return bool(about()["system"] == facts["system"])


@pytest.fixture(scope="module")
def tolerance(same_build: bool) -> float:
    return 1e-4 if same_build else 2e-3


def assert_agree(ours: Imatrix, theirs: Imatrix, tolerance: float) -> None:
    assert ours.names == theirs.names
    assert (ours.chunk_count, ours.chunk_size) == (theirs.chunk_count, theirs.chunk_size)
    assert ours.datasets == theirs.datasets
    for name in theirs.names:
        assert np.array_equal(ours.counts[name], theirs.counts[name]), name
        for mine, other in zip(ours.sums[name], theirs.sums[name], strict=True):
            np.testing.assert_allclose(mine, other, rtol=tolerance, atol=0, err_msg=name)
            assert np.linalg.norm(mine - other) <= 1e-4 * np.linalg.norm(other), name


def test_dense(own_demo: Path, reference: Path, tolerance: float) -> None:
    ours = read(own_demo)
    assert len(ours.names) == 42
    assert_agree(ours, read(reference / "demo.gguf"), tolerance)


def test_what_the_first_attention_sees(f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    """The token's embedding times √hidden, over its root mean square, times the norm's weight; in float64."""
    ours = read(imatrix(f32_gguf, text=prose, out=tmp_path / "i.gguf", chunks=4))
    with Engine(f32_gguf, vocab_only=True) as engine:
        tokens = chunks(engine, [prose], 512, limit=4).reshape(-1)
    with gguf.read(f32_gguf) as model:
        embedding, norm = (model.data(f"{name}.weight").view(np.float32) for name in ("token_embd", "blk.0.attn_norm"))
        epsilon = model.get("gemma3.attention.layer_norm_rms_epsilon")
        x = embedding[tokens].astype(np.float64) * np.sqrt(embedding.shape[1])
    x *= norm.reshape(-1) / np.sqrt((x**2).mean(axis=1, keepdims=True) + epsilon)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"):
        assert ours.counts[name] == len(tokens)
        np.testing.assert_allclose(ours.sums[name], (x**2).sum(axis=0, keepdims=True), rtol=1e-5, err_msg=name)


def test_mixture_of_experts_and_output(own_moe: Path, reference: Path, tolerance: float) -> None:
    ours = read(own_moe)
    assert ours.sums["blk.0.ffn_up_exps.weight"].shape == (8, 64)
    assert ours.counts["blk.1.ffn_down_exps.weight"].sum() == 2 * 16 * 128  # two experts a token
    assert "output.weight" in ours.names
    assert "token_embd.weight" not in ours.names  # of which tokens are only looked up
    assert_agree(ours, read(reference / "moe.gguf"), tolerance)


def add_squares_in_float32(
    x: np.ndarray[Any, Any], sums: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any] | None = None, threads: int = 1
) -> None:
    """As llama-imatrix adds: token after token, in float32 (numpy adds along the first axis in that order)."""
    for chosen in range(len(sums)):
        rows = x if matrix is None else x[matrix == chosen]
        sums[chosen] = np.concatenate([sums[chosen : chosen + 1].astype(np.float32), rows * rows]).sum(axis=0)


@pytest.mark.parametrize(("name", "context", "count"), [("demo.gguf", 512, 15), ("moe.gguf", 128, 16)])
def test_in_float32_they_are_the_same_bits(
    name: str, context: int, count: int, same_build: bool, moe: Path, f32_gguf: Path, prose: Path, reference: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """So the activations are theirs to the bit, and all that differs is that we sum them in float64."""
    if not same_build:
        pytest.skip("llama.cpp is built for another instruction set than the reference's")
    monkeypatch.setattr(activations._native, "add_squares", add_squares_in_float32)
    model = f32_gguf if name == "demo.gguf" else moe
    with Engine(model, vocab_only=True) as engine:
        windows = chunks(engine, [prose], context, limit=count)
    session = Session(Settings(str(model), 1, 2048 // context, 0, "F16"))
    ((done, found),) = activations.activations(session, windows, count, process_output=model == moe)
    theirs = read(reference / name)
    assert (done, sorted(found)) == (count, sorted(theirs.names))
    for entry, (sums, counts) in found.items():
        assert np.array_equal(sums, theirs.sums[entry]), entry
        assert np.array_equal(counts, theirs.counts[entry]), entry


def last_norm(session: Session, windows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What goes into the output product, float64 [tokens, hidden]: llama.cpp's embeddings without pooling."""
    sequences, length = windows.shape
    session.open(sequences, length)
    assert llama.llama_pooling_type(session.context) == llama.LLAMA_POOLING_TYPE_NONE
    llama.llama_set_embeddings(session.context, True)
    for _ in session.forward(windows):
        pass  # the logits are of no interest
    shape = (sequences * length, llama.llama_model_n_embd_out(session.model))
    found = np.ctypeslib.as_array(llama.llama_get_embeddings(session.context), shape=shape).astype(np.float64)
    session.close()
    return found


@pytest.mark.parametrize("name", ["demo", "gemma4-e", "moe"])
def test_what_the_output_sees(name: str, f32_gguf: Path, moe: Path, tmp_path: Path) -> None:
    """Tied to the embedding, tied with a struct of its own, and a weight of its own; the rest is as without."""
    model = {"demo": f32_gguf, "moe": moe}.get(name) or convert(checkpoint(name, tmp_path), tmp_path / "m.gguf")
    session = Session(Settings(str(model), 1, 4, 0, "F16"))
    windows = np.random.default_rng(3).integers(6, session.n_vocab, size=(4, 96), dtype=np.int32)
    ((_, found),) = activations.activations(session, windows, 4, process_output=True)
    ((_, rest),) = activations.activations(session, windows, 4, process_output=False)
    sums, counts = found.pop("output.weight" if name == "moe" else "token_embd.weight")
    assert counts.tolist() == [windows.size]
    np.testing.assert_allclose(sums[0], (last_norm(session, windows) ** 2).sum(axis=0), rtol=1e-12)
    assert found.keys() == rest.keys()
    for entry in rest:
        assert np.array_equal(found[entry][0], rest[entry][0]), entry


def test_the_output_is_collected_unless_refused(own_demo: Path, f32_gguf: Path, prose: Path, tmp_path: Path) -> None:
    """The other entries are the same bits, which are compared with llama-imatrix's above."""
    ours, without = read(imatrix(f32_gguf, text=[prose], out=tmp_path / "a.gguf", threads=1)), read(own_demo)
    assert set(ours.names) - set(without.names) == {"token_embd.weight"}
    assert ours.chunk_count == without.chunk_count
    assert ours.sums["token_embd.weight"].shape == (1, 256)
    assert ours.counts["token_embd.weight"] == ours.counts["blk.0.attn_q.weight"]
    for name in without.names:
        assert np.array_equal(ours.sums[name], without.sums[name]), name


def test_the_file_is_laid_out_as_theirs(own_moe: Path, own_demo: Path, reference: Path) -> None:
    for ours, theirs in ((own_demo, reference / "demo.gguf"), (own_moe, reference / "moe.gguf")):
        with gguf.read(ours) as mine, gguf.read(theirs) as other:
            assert list(mine.metadata.items()) == list(other.metadata.items())
            assert list(mine.tensors.values()) == list(other.tensors.values())  # names, order, shapes, types, offsets
        assert ours.stat().st_size == theirs.stat().st_size


def test_the_gguf_package_reads_it(own_moe: Path) -> None:
    reader = GGUFReader(own_moe)
    ours = read(own_moe)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["prose.txt"]
    assert reader.get_field("imatrix.chunk_count").contents() == 16
    assert reader.get_field("imatrix.chunk_size").contents() == 128
    found = {tensor.name: tensor.data.reshape(-1) for tensor in reader.tensors}
    assert len(found) == 2 * len(ours.names)
    for name in ours.names:
        assert np.array_equal(found[f"{name}.in_sum2"], ours.sums[name].reshape(-1))
        assert np.array_equal(found[f"{name}.counts"], ours.counts[name])
