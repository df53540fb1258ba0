"""Inputs row by row, and weights put in place: against what llama.cpp's other operations say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.engine import Engine
from quantpress.engine.rows import _Rows
from quantpress.errors import EngineError
from tests.engine.test_resident import windows, written

NAMES = ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.attn_output.weight", "blk.3.ffn_down.weight"]


def test_their_squares_are_the_activations(bf16_gguf: Path) -> None:
    """Of each chunk for itself: what lies where another input lay before is not taken for it."""
    with Engine(bf16_gguf, sequences=1, threads=2) as engine:
        chunks = windows(engine.info.vocab, 3, 96)
        found = {name: list(engine.rows(chunks, name, stop=True)) for name in NAMES}
        whole = {name: list(engine.rows(chunks, name)) for name in NAMES}
        for number, chunk in enumerate(chunks):
            ((_, expected),) = engine.activations(chunk[None])
            for name in NAMES:
                sums, counts = expected[name]
                assert counts.tolist() == [96] == [len(found[name][number])]
                assert np.array_equal(found[name][number], whole[name][number])
                squares = np.square(found[name][number], dtype=np.float64).sum(axis=0)
                np.testing.assert_allclose(squares, sums[0], rtol=1e-6)


def test_the_model_computes_on_as_before(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf, sequences=1, threads=2) as engine:
        chunks = windows(engine.info.vocab)
        before = list(engine.logits(chunks))
        list(engine.rows(chunks, NAMES[0], stop=True))
        assert np.array_equal(before, list(engine.logits(chunks)))


def test_a_weight_that_is_not_met(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf, sequences=1, threads=2) as engine, pytest.raises(EngineError, match=r"blk\.99.*found none"):
        list(engine.rows(windows(engine.info.vocab), "blk.99.attn_q.weight"))


def test_an_input_that_is_not_finite() -> None:
    rows = _Rows.__new__(_Rows)
    rows.name, rows.stop = NAMES[0], True
    with pytest.raises(EngineError, match=r"blk\.0\.attn_q\.weight is not finite"):
        rows.add(type("Product", (), {"values": np.array([[1, np.inf]], np.float32), "cols": 2})())  # type: ignore[arg-type]


def test_rows_that_are_put_in_place(bf16_gguf: Path, tmp_path: Path) -> None:
    """The file of one encoder, with the tensors of another's put in one after another, computes as the other."""
    types = {"blk.0.ffn_up.weight": "Q4_K", "blk.1.attn_q.weight": "Q3_K", "blk.2.ffn_down.weight": "Q4_0"}
    first, other = (written(bf16_gguf, types, tmp_path / name, encoder=name) for name in ("quantpress", "ggml"))
    with Engine(other, threads=2) as engine:
        chunks = windows(engine.info.vocab)
        expected = list(engine.logits(chunks))
    with Engine(first, threads=2, resident=True) as engine, gguf.read(other) as source:
        before = list(engine.logits(chunks))
        assert not np.array_equal(before, expected)
        for name in types:
            engine.put(name, np.ascontiguousarray(source.data(name)))
        assert np.array_equal(list(engine.logits(chunks)), expected)
        with pytest.raises(
            EngineError, match=r"blk\.1\.attn_q\.weight: expected .* bytes of Q3_K, as in the file, found 3"
        ):
            engine.put("blk.1.attn_q.weight", np.zeros(3, np.uint8))
        engine.assign({})
        assert np.array_equal(list(engine.logits(chunks)), before)


def test_nothing_is_put_into_a_map(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf) as engine, pytest.raises(EngineError, match="open the engine with resident"):
        engine.put(NAMES[0], np.zeros(3, np.uint8))
