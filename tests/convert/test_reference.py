"""Through llama.cpp, the converted models speak the tokens and give the logits that transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.engine import Engine
from tests.checkpoints import older_style
from tests.convert.oracle import LOGITS

TOLERANCE = 2e-3
"""Largest difference of logits, in standard deviations of them."""


@pytest.fixture(scope="module")
def reference(data: Path) -> dict[str, np.ndarray]:
    with np.load(data / "demo-reference.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def engine(f32_gguf: Path, reference: dict[str, np.ndarray]) -> Engine:
    with Engine(f32_gguf) as running:
        yield running


def test_tokens(engine: Engine, reference: dict[str, np.ndarray]) -> None:
    offsets = reference["string_offsets"]
    for i, text in enumerate(reference["strings"]):
        expected = reference["string_tokens"][offsets[i] : offsets[i + 1]]
        found = engine.tokenize(str(text), add_special=False, parse_special=True)
        np.testing.assert_array_equal(found, expected, err_msg=repr(text))


def test_text_begins_with_bos(engine: Engine) -> None:
    assert engine.tokenize("Hello").tolist() == [2, *engine.tokenize("Hello", add_special=False).tolist()]


def test_logits(engine: Engine, reference: dict[str, np.ndarray]) -> None:
    found = np.stack(list(engine.logits(reference["tokens"])))[:, reference["positions"]]
    expected = reference["logits"]
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()


def test_logits_of_an_unusual_configuration(data: Path, tmp_path: Path) -> None:
    """Another pattern of sliding layers, linear rope scaling, other rope bases, a soft cap, an untied output."""
    with np.load(data / LOGITS) as stored:
        tokens, positions, expected = stored["tokens"], stored["positions"], stored["logits"]
    model = convert(older_style(tmp_path), tmp_path / "out.gguf", type="F32")
    with Engine(model) as engine:
        found = next(iter(engine.logits(tokens[None])))[positions]
    assert np.abs(found - expected).max() < TOLERANCE * expected.std()
