"""Rows that get back the size that rounding to few bits takes: only their scales change, by what they had lost."""

from __future__ import annotations

import numpy as np
import pytest

from quantpress import _native, codec
from quantpress.arrays import Floats
from quantpress.formats import TYPES
from tests.native.test_codec import BLOCKS, ISAS, decoded, encoded, importance_of

COLS = 768
FEW_BITS = "Q2_K Q3_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S".split()


@pytest.fixture(scope="module")
def rows() -> Floats:
    return (0.02 * np.random.default_rng(8).standard_t(4, (37, COLS))).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FEW_BITS)
def test_scales_grow_by_what_was_lost(name: str, weighted: bool, rows: Floats) -> None:
    """Decoded by the gguf package; a quarter of what was lost is left, and a float16 is good to 2^-11."""
    importance = importance_of(COLS) if weighted else None
    w = np.ones(COLS) if importance is None else importance.astype(float)
    x = rows.astype(float)
    before = decoded(encoded(rows, name, importance), name, COLS)
    after = decoded(encoded(rows, name, importance, restore=True), name, COLS)
    size = (w * x * before).sum(axis=1) / (w * x * x).sum(axis=1)
    assert (size < 0.995).all()
    expected = before * size[:, None] ** -0.75
    assert np.abs(after - expected).max(axis=1) == pytest.approx(0, abs=2**-10 * np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - set(FEW_BITS)))
def test_other_types_stay_as_they_are(name: str, rows: Floats) -> None:
    assert np.array_equal(encoded(rows, name, restore=True), encoded(rows, name))


@pytest.mark.parametrize("name", FEW_BITS)
def test_the_same_bytes_everywhere(name: str, rows: Floats) -> None:
    importance = importance_of(COLS)
    expected = encoded(rows, name, importance, restore=True, isa="reference")
    for isa in ISAS:
        assert np.array_equal(encoded(rows, name, importance, restore=True, isa=isa, threads=3), expected), isa
    cut = [encoded(part, name, importance, restore=True) for part in (rows[:5], rows[5:])]
    assert np.array_equal(np.concatenate(cut), expected)
    assert np.array_equal(codec.encode(rows, name, importance), expected)


@pytest.mark.parametrize("name", FEW_BITS)
def test_errors_are_those_of_the_restored_rows(name: str, rows: Floats) -> None:
    errors = np.empty((1, len(rows)))
    out = np.empty((len(rows), TYPES[name].row_bytes(COLS)), np.uint8)
    _native.encode(rows.view(np.uint8), "F32", COLS, [name], [out], errors=errors, restore=True)
    assert errors[0] == pytest.approx(np.square(rows - decoded(out, name, COLS)).sum(axis=1), rel=1e-6)


@pytest.mark.parametrize("name", FEW_BITS)
def test_what_has_no_size_stays(name: str, rows: Floats) -> None:
    unimportant = np.zeros(COLS, np.float32)
    assert np.array_equal(encoded(rows * 0, name, restore=True), encoded(rows * 0, name))
    assert np.array_equal(encoded(rows, name, unimportant, restore=True), encoded(rows, name, unimportant))
