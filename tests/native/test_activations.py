"""add_squares against numpy in float64, on every instruction set of this machine."""

from __future__ import annotations

import numpy as np
import pytest

from quantpress import _native

ISAS = _native.isas()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cols", [1, 15, 16, 17, 640, 1025, 3000])
def test_sums_of_squares(cols: int, isa: str) -> None:
    x = np.random.default_rng(cols).standard_normal((37, cols)).astype(np.float32)
    sums = np.ones((1, cols))
    _native.add_squares(x, sums, isa=isa)
    np.testing.assert_allclose(sums[0], 1 + (x.astype(np.float64) ** 2).sum(axis=0), rtol=1e-14)


@pytest.mark.parametrize("isa", ISAS)
def test_each_row_goes_to_its_matrix(isa: str) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((50, 100)).astype(np.float32)
    matrix = draw.integers(4, size=50, dtype=np.int32)
    sums = np.zeros((5, 100))
    _native.add_squares(x, sums, matrix, isa=isa)
    for i in range(5):
        np.testing.assert_allclose(sums[i], (x[matrix == i].astype(np.float64) ** 2).sum(axis=0), rtol=1e-14)


def test_every_instruction_set_and_number_of_threads_gives_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal((64, 2600)).astype(np.float32) ** 3
    results = []
    for isa in ISAS:
        for threads in (1, 2, 3, 7):
            sums = np.zeros((1, 2600))
            _native.add_squares(x, sums, threads=threads, isa=isa)
            results.append(sums.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_small_squares_are_not_lost_in_a_large_sum(isa: str) -> None:
    x = np.full((1000, 20), 1e-3, dtype=np.float32)
    sums = np.full((1, 20), 1e6)
    _native.add_squares(x, sums, isa=isa)
    np.testing.assert_allclose(sums - 1e6, 1000 * np.float64(np.float32(1e-3)) ** 2, rtol=1e-4)


def test_rows_may_be_apart_or_none() -> None:
    wide = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    sums = np.zeros((1, 40))
    _native.add_squares(wide[::2, 8:48], sums)
    np.testing.assert_allclose(sums[0], (wide[::2, 8:48].astype(np.float64) ** 2).sum(axis=0), rtol=1e-14)
    before = sums.copy()
    _native.add_squares(wide[:0, :40], sums)
    np.testing.assert_array_equal(sums, before)


def test_wrong_arrays_are_refused() -> None:
    x, sums = np.zeros((3, 8), dtype=np.float32), np.zeros((2, 8))
    with pytest.raises(ValueError, match="matrix index"):
        _native.add_squares(x, sums)
    with pytest.raises(ValueError, match="matrix: expected 0 to 1, found 2"):
        _native.add_squares(x, sums, np.array([0, 1, 2], dtype=np.int32))
    with pytest.raises(ValueError, match="as many columns"):
        _native.add_squares(x, np.zeros((1, 9)))
    with pytest.raises(ValueError, match="adjacent"):
        _native.add_squares(x[:, ::2], np.zeros((1, 4)))
    with pytest.raises(TypeError):
        _native.add_squares(x, sums.astype(np.float32))
