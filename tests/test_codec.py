"""The public functions: shapes, several types at once, the error that is reported, and what is refused."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

import quantpress
from quantpress import codec
from quantpress.errors import InputError, PlanError
from quantpress.formats import TYPES

COLS = 512


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return (0.02 * np.random.default_rng(0).standard_t(4, (12, COLS))).astype(np.float32)


@pytest.fixture(scope="module")
def importance() -> np.ndarray:
    return np.random.default_rng(1).exponential(size=COLS).astype(np.float32)


def test_types_go_by_name_in_any_case(x: np.ndarray) -> None:
    data = quantpress.encode(x, "q4_k")
    assert data.dtype == np.uint8
    assert data.shape == (12, 288)
    assert np.array_equal(data, quantpress.encode(x, "Q4_K", effort="normal", threads=2))
    y = quantpress.decode(data, "q4_K", COLS)
    assert np.array_equal(y, gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_K))


def test_matrices_have_their_own_importance(x: np.ndarray, importance: np.ndarray) -> None:
    weights = importance * np.arange(1, 4)[:, None] ** np.linspace(-3, 3, COLS)
    stacked = x.reshape(3, 4, COLS)
    found = quantpress.encode(stacked, "IQ3_S", weights)
    errors = quantpress.error(stacked, "IQ3_S", weights)
    assert found.shape == (3, 4, 220)
    assert errors.shape == (3, 4)
    for i in range(3):
        assert np.array_equal(found[i], quantpress.encode(stacked[i], "IQ3_S", weights[i]))
        assert np.array_equal(errors[i], quantpress.error(stacked[i], "IQ3_S", weights[i]))
    assert quantpress.decode(found, "IQ3_S", COLS).shape == stacked.shape


@pytest.mark.parametrize("name", ["Q8_0", "Q2_K", "IQ4_XS", "F16"])
def test_the_error_is_that_of_the_decoded_bytes(name: str, x: np.ndarray, importance: np.ndarray) -> None:
    y = quantpress.decode(quantpress.encode(x, name, importance), name, COLS)
    expected = (importance.astype(float) * (x.astype(float) - y) ** 2).sum(axis=1)
    np.testing.assert_allclose(quantpress.error(x, name, importance), expected, rtol=1e-6)
    y = quantpress.decode(quantpress.encode(x, name), name, COLS)
    np.testing.assert_allclose(quantpress.error(x, name), ((x.astype(float) - y) ** 2).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("source", ["F32", "F16", "BF16", "Q8_0", "Q5_K", "IQ4_NL"])
def test_several_types_from_one_reading(source: str, x: np.ndarray, importance: np.ndarray) -> None:
    data = quantpress.encode(x, source)
    exact = quantpress.decode(data, source, COLS)
    types = [TYPES[name] for name in ("Q4_0", "Q3_K", "IQ2_XS", "BF16")]
    found = codec.encode_rows(data, TYPES[source], COLS, types, importance, errors=True, threads=3)
    for type, encoded, errors in zip(types, found.data, found.errors, strict=True):
        assert np.array_equal(encoded, quantpress.encode(exact, type.name, importance))
        assert np.array_equal(errors, quantpress.error(exact, type.name, importance))


def test_errors_without_bytes_and_bytes_without_errors(x: np.ndarray) -> None:
    data = x.view(np.uint8)
    both = codec.encode_rows(data, TYPES["F32"], COLS, [TYPES["Q4_0"]], errors=True)
    errors = codec.encode_rows(data, TYPES["F32"], COLS, [TYPES["Q4_0"]], keep=False, errors=True)
    assert errors.data == []
    assert np.array_equal(errors.errors, both.errors)
    assert codec.encode_rows(data, TYPES["F32"], COLS, [TYPES["Q4_0"]]).errors.shape == (1, 0)


def test_other_layouts_and_dtypes_are_converted(x: np.ndarray) -> None:
    expected = quantpress.encode(x, "Q5_0")
    assert np.array_equal(quantpress.encode(np.asfortranarray(x), "Q5_0"), expected)
    assert np.array_equal(quantpress.encode(x.astype(np.float64), "Q5_0"), expected)
    assert np.array_equal(quantpress.encode(np.repeat(x, 2, axis=0)[::2], "Q5_0"), expected)
    wide = np.concatenate([expected, expected], axis=1)
    assert np.array_equal(
        quantpress.decode(wide[:, : expected.shape[1]], "Q5_0", COLS), quantpress.decode(expected, "Q5_0", COLS)
    )


def test_no_rows(x: np.ndarray) -> None:
    assert quantpress.encode(x[:0], "Q4_K").shape == (0, 288)
    assert quantpress.error(x[:0], "Q4_K").shape == (0,)
    assert quantpress.decode(np.empty((0, 288), np.uint8), "Q4_K", COLS).shape == (0, COLS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["Q4_K", "F16", "BF16", "F32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_bad_weight_is_named(bad: float, name: str, threads: int, x: np.ndarray) -> None:
    broken = x.copy()
    broken[7, 300] = broken[9, 3] = bad
    with pytest.raises(InputError, match=rf"^row 7, column 300: expected a finite weight, found {bad}"):
        quantpress.encode(broken, name, threads=threads)


def test_weights_beyond_float16_are_refused(x: np.ndarray) -> None:
    large = x.copy()
    large[2, 5] = -65536
    for name, most in (("Q8_0", 65504), ("IQ2_S", 65504), ("F16", 65520)):
        with pytest.raises(InputError, match=f"row 2, column 5: expected weights up to {most}, found -65536"):
            quantpress.encode(large, name)
    assert np.array_equal(quantpress.encode(large, "BF16"), gguf.quants.quantize(large, gguf.GGMLQuantizationType.BF16))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, 1e16])
def test_bad_importance_is_refused(bad: float, x: np.ndarray, importance: np.ndarray) -> None:
    broken = importance.copy()
    broken[3] = bad
    with pytest.raises(InputError, match=r"importance: expected values from 0 to 1e\+15"):
        quantpress.encode(x, "Q4_K", broken)


def test_what_does_not_fit_is_a_plan_error(x: np.ndarray, importance: np.ndarray) -> None:
    with pytest.raises(PlanError, match=r"expected one of .*Q4_K.*, found Q4_KK"):
        quantpress.encode(x, "Q4_KK")
    with pytest.raises(PlanError, match=r"expected one of F32, .*, found NVFP4"):
        quantpress.encode(x, "NVFP4")
    with pytest.raises(PlanError, match="a row of type Q4_K: expected a multiple of 256, found 96"):
        quantpress.encode(x[:, :96], "Q4_K")
    with pytest.raises(PlanError, match=r"importance: expected shape \(512,\), found shape \(256,\)"):
        quantpress.encode(x, "Q4_K", importance[:256])
    with pytest.raises(PlanError, match="effort: expected one of fast, normal, best, found fastest"):
        quantpress.encode(x, "Q4_K", effort="fastest")
    with pytest.raises(PlanError, match=r"weights: expected one matrix, or a stack of them, found shape \(512,\)"):
        quantpress.encode(x[0], "Q4_K")
    with pytest.raises(PlanError, match=r"weights: expected one matrix, .*, found shape \(0, 4, 512\)"):
        quantpress.encode(np.zeros((0, 4, 512)), "Q4_K")
    with pytest.raises(PlanError, match="rows of 288 bytes for 512 weights of Q4_K, found uint8, shape"):
        quantpress.decode(np.zeros((2, 287), np.uint8), "Q4_K", COLS)
