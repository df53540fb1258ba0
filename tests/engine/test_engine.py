"""The engine on the demo model: what it tells, reads and computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quantpress.engine import Engine, about


@pytest.fixture(scope="module")
def engine(bf16_gguf: Path) -> Iterator[Engine]:
    with Engine(bf16_gguf, cache_type="F32") as running:
        yield running


def test_info(engine: Engine) -> None:
    info = engine.info
    assert (info.vocab, info.bos, info.eos, info.add_bos, info.context) == (4096, 2, 1, True, 2048)
    assert info.parameters == 6_757_376
    assert info.chat_template is not None
    assert "<start_of_turn>" in info.chat_template


def test_a_batch_of_sequences_gives_what_each_gives_alone(engine: Engine) -> None:
    chunks = np.random.default_rng(0).integers(6, 4096, size=(3, 96), dtype=np.int32)
    together = np.stack(list(engine.logits(chunks)))
    alone = np.concatenate([list(engine.logits(chunks[i : i + 1])) for i in range(3)])
    assert together.shape == (3, 96, 4096)
    np.testing.assert_allclose(together, alone, atol=2e-2 * alone.std())


def test_text_survives_a_round_trip(engine: Engine) -> None:
    text = "It was a bright cold day — “naïve” 日本 \U0001f600\n\n  done."
    tokens = engine.tokenize(text)
    assert tokens[0] == engine.info.bos
    assert engine.detokenize(tokens) == text


def test_special_tokens_are_read_only_on_request(engine: Engine) -> None:
    assert 4 in engine.tokenize("<start_of_turn>", parse_special=True)
    assert 4 not in engine.tokenize("<start_of_turn>")


def test_about_names_the_build() -> None:
    found = about()
    assert found["llama_cpp_python"].count(".") == 2
    assert "CPU" in found["system"]
