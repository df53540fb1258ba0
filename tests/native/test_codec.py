"""The encoders against their scalar reference and ggml's, the decoders against the gguf package; every instruction set.

What is random here is drawn from fixed seeds, or by hypothesis.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from quantpress import _native, codec
from quantpress.arrays import Bytes, Floats
from quantpress.engine import ggml
from quantpress.formats import TYPES

ISAS = _native.isas()
BLOCKS = [name for name in _native.types() if TYPES[name].quantized]
EFFORTS = range(len(codec.EFFORTS))
COLS = 768  # three super-blocks, and 24 small blocks: one vector of 16 and a half


def encoded(x: Floats, name: str, importance: Floats | None = None, **how: object) -> Bytes:
    rows, cols = x.shape
    out = np.empty((rows, TYPES[name].row_bytes(cols)), np.uint8)
    data = np.ascontiguousarray(x).view(np.uint8)
    assert _native.encode(data, "F32", cols, [name], [out], importance, **how) is None  # type: ignore[arg-type]
    return out


def decoded(data: Bytes, name: str, cols: int) -> NDArray[np.float64]:
    """By the gguf package."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(TYPES[name].id)).reshape(-1, cols).astype(float)


def relative_error(x: Floats, data: Bytes, name: str, importance: Floats | None) -> float:
    w = np.ones(x.shape[1]) if importance is None else importance.astype(float)
    return float((w * (x - decoded(data, name, x.shape[1])) ** 2).sum() / (w * x.astype(float) ** 2).sum())


def importance_of(cols: int, seed: int = 3) -> Floats:
    return (np.random.default_rng(seed).standard_gamma(0.5, cols) + 1e-3).astype(np.float32)


def hard_rows() -> dict[str, Floats]:
    draw = np.random.default_rng(5)
    x = draw.standard_t(4, COLS)
    outlier = x * 1e-3
    outlier[7] = 60000
    rows = {
        "ordinary": x,
        "zeros": np.zeros(COLS),
        "half zeros": np.where(np.arange(COLS) % 512 < 256, 0, x),
        "outlier": outlier,
        "denormals": x * 1e-40,
        "under float16": x * 1e-8,
        "largest": np.where(x > 0, 65504, -65504),
        "equal": np.full(COLS, 0.37),
        "equal, negative": np.full(COLS, -0.37),
        "positive": np.abs(x),
        "negative": -np.abs(x),
        "sparse": x * (draw.random(COLS) < 0.03),
        "ternary": draw.integers(-1, 2, COLS) * 0.125,
    }
    return {name: row[None].astype(np.float32) for name, row in rows.items()}


def hard_importances() -> dict[str, Floats | None]:
    w = importance_of(COLS)
    found: dict[str, Floats | None] = {
        "none": None,
        "ordinary": w,
        "zeros": 0 * w,
        "mostly zeros": np.where(np.arange(COLS) % 37 == 5, w, 0),
        "zero blocks": np.where(np.arange(COLS) % 64 < 32, w, 0),
        "large": w / w.max() * np.float32(1e15),
        "small": w * np.float32(1e-38),
    }
    return {name: None if one is None else one.astype(np.float32) for name, one in found.items()}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_every_instruction_set_gives_the_bytes_of_the_reference(name: str, effort: int) -> None:
    x = np.concatenate(list(hard_rows().values()))
    for label, importance in hard_importances().items():
        expected = encoded(x, name, importance, effort=effort, isa="reference")
        for isa in ISAS:
            found = encoded(x, name, importance, effort=effort, isa=isa)
            assert np.array_equal(found, expected), f"{isa}, importance {label}"


def tied_blocks() -> Floats:
    """Of weights that are nearly all equal, so that many choices (which sign to turn round) cost exactly the same."""
    draw = np.random.default_rng(7)
    groups = np.full((16, 32, 8), 236)
    odd_ones = -draw.integers(150, 236, (16, 1, 1)).repeat(32, 1)
    np.put_along_axis(groups, draw.integers(0, 8, (16, 32, 1)), odd_ones, 2)
    groups[draw.random(groups.shape) < 0.02] = 0
    found = np.full(256, 236)  # by hypothesis
    found[[197, 202, 208]] = 0, -195, 0
    return np.concatenate([found[None], groups.reshape(16, 256)]).astype(np.float32)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_ties_are_decided_alike(name: str, effort: int) -> None:
    x = tied_blocks()
    for importance in (None, np.random.default_rng(1).integers(1, 3, 256).astype(np.float32)):
        expected = encoded(x, name, importance, effort=effort, isa="reference")
        for isa in ISAS:
            found = encoded(x, name, importance, effort=effort, isa=isa)
            differ = np.flatnonzero((found != expected).any(1))
            assert not len(differ), f"{isa}, {'weighted' if importance is not None else 'unweighted'}, blocks {differ}"


@pytest.mark.parametrize("name", BLOCKS)
def test_hard_rows_decode_to_something_sensible(name: str) -> None:
    """Finite, and never worse than a row of zeros would be."""
    for row, x in hard_rows().items():
        for label, importance in hard_importances().items():
            data = encoded(x, name, importance)
            assert ggml.valid(data, TYPES[name]), f"{row}, importance {label}"
            y = decoded(data, name, COLS)
            none = importance is None or importance.max() < 1e-30  # so little counts as none
            w = np.ones(COLS) if none or importance is None else importance.astype(float)
            error, size = float((w * (x - y) ** 2).sum()), float((w * x.astype(float) ** 2).sum())
            # a weight without importance that is a million times the others is not given up altogether
            if row != "outlier" or none or w.all():
                assert error <= size * (1 + 1e-6), f"{row}, importance {label}"
            reach = 4.0 if name.startswith(("IQ1", "IQ2", "IQ3")) else 1.6  # a grid's entry has what others need
            assert np.abs(y).max() <= reach * np.abs(x).max() + 1e-6, f"{row}, importance {label}"


@pytest.mark.parametrize("name", BLOCKS)
def test_equal_weights_come_out_equal(name: str) -> None:
    x = hard_rows()["equal"]
    y = decoded(encoded(x, name), name, COLS)
    if name == "MXFP4":  # its scales are powers of two
        assert np.ptp(y) == 0
    else:
        exact = 0.02 if name.startswith(("IQ1", "IQ2", "IQ3")) else 1e-3
        assert np.abs(y / 0.37 - 1).max() < (0.15 if name == "IQ1_S" else exact) or np.ptp(y) == 0


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_ternary_weights_are_exact(name: str) -> None:
    x = hard_rows()["ternary"]
    assert np.array_equal(decoded(encoded(x, name), name, COLS), x)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "student"])
def test_the_error_is_no_larger_than_ggml_s(name: str, weighted: bool, kind: str) -> None:
    draw = np.random.default_rng(11)
    x = draw.standard_normal((64, 1024)) if kind == "gaussian" else draw.standard_t(4, (64, 1024))
    x = (0.02 * x).astype(np.float32)
    importance = importance_of(1024) if weighted else None
    theirs_needs = importance is None and ggml.requires_importance(TYPES[name])
    theirs = ggml.quantize(x, TYPES[name], np.ones(1024, np.float32) if theirs_needs else importance)
    ours = encoded(x, name, importance)
    assert relative_error(x, ours, name, importance) <= relative_error(x, theirs, name, importance)


@pytest.mark.parametrize("name", BLOCKS)
def test_more_effort_is_no_worse(name: str) -> None:
    x = (0.02 * np.random.default_rng(12).standard_t(4, (64, 1024))).astype(np.float32)
    errors = [codec.error(x, name, importance_of(1024), effort=effort).sum() for effort in codec.EFFORTS]
    assert errors[2] <= errors[1] <= errors[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_bytes_do_not_depend_on_threads_or_neighbours(name: str) -> None:
    x = (0.02 * np.random.default_rng(13).standard_t(4, (23, COLS))).astype(np.float32)
    importance = importance_of(COLS)
    expected = encoded(x, name, importance)
    for threads in (2, 3, 50):
        assert np.array_equal(encoded(x, name, importance, threads=threads), expected)
    one_by_one = [encoded(x[i : i + 1], name, importance) for i in range(len(x))]
    assert np.array_equal(np.concatenate(one_by_one), expected)


@settings(max_examples=25, deadline=None)
@given(
    x=arrays(np.float32, (1, 256), elements=st.floats(-65504, 65504, width=32)),
    importance=arrays(np.float32, 256, elements=st.floats(0, 999999986991104, width=32)),
    weighted=st.booleans(),
    name=st.sampled_from(BLOCKS),
)
def test_anything_finite_is_encoded_validly(x: Floats, importance: Floats, weighted: bool, name: str) -> None:
    given_ = importance if weighted else None
    data = encoded(x, name, given_)
    assert ggml.valid(data, TYPES[name])
    assert np.array_equal(data, encoded(x, name, given_, isa="reference"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", BLOCKS)
def test_decoders_equal_the_gguf_package(name: str, isa: str) -> None:
    """Random bytes, which reach every index; where a scale is NaN or infinite, so is theirs."""
    type = TYPES[name]
    blocks = np.random.default_rng(0).integers(0, 256, (3000, type.bytes), np.uint8)
    x = np.empty((3000, type.block), np.float32)
    _native.decode(blocks, name, x, isa=isa)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(x, gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(type.id)))


@pytest.mark.parametrize("isa", ISAS)
def test_float16_every_value_and_every_rounding(isa: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    halves = every.view(np.float16).astype(np.float32)
    x = np.empty((1, 1 << 16), np.float32)
    _native.decode(every.view(np.uint8)[None], "F16", x, isa=isa)
    np.testing.assert_array_equal(x[0], halves)
    finite = np.sort(halves[np.isfinite(halves)])
    middle = (finite[1:].astype(float) + finite[:-1]) / 2
    around = np.concatenate([np.nextafter(middle.astype(np.float32), np.float32(side)) for side in (-9e9, 9e9)])
    values = np.concatenate([finite, middle.astype(np.float32), around])
    values = values[np.abs(values) < 65504]
    assert np.array_equal(encoded(values[None], "F16", isa=isa).view(np.float16)[0], values.astype(np.float16))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_as_ggml_writes_them(name: str, isa: str) -> None:
    draw = np.random.default_rng(4)
    x = (draw.standard_t(2, (3, 1001)) * 10.0 ** draw.integers(-12, 3, (3, 1001))).astype(np.float32)
    assert np.array_equal(encoded(x, name, isa=isa), ggml.quantize(x, TYPES[name], None))
    back = np.empty_like(x)
    _native.decode(encoded(x, name), name, back, isa=isa)
    assert np.array_equal(back, gguf.quants.dequantize(encoded(x, name), gguf.GGMLQuantizationType(TYPES[name].id)))
