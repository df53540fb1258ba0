"""score, pack and compare against the plain formulas in float64, on every instruction set of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantpress import _native

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.int32]

ISAS = _native.isas()
VOCABS = (1, 2, 15, 16, 17, 255, 1000, 32000)


def log_softmax(logits: Floats) -> Doubles:
    x = logits.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    result: Doubles = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return result


def unpack(packed: NDArray[np.uint16], vocab: int) -> Doubles:
    """Log-probabilities by the drawing at the head of native/kernels/divergence.hpp."""
    step = packed[:, :2].copy().view(np.float32).astype(np.float64)
    codes = packed[:, 4 : 4 + vocab].astype(np.float64)
    x = np.where(codes > 0, (codes - 65535) * step, -np.inf)
    result: Doubles = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return result


def divergence(base: Doubles, other: Doubles) -> Doubles:
    with np.errstate(invalid="ignore"):
        result: Doubles = np.where(np.exp(base) > 0, np.exp(base) * (base - other), 0.0).sum(axis=1)
    return result


def pack(logits: Floats, targets: Tokens, isa: str = "") -> NDArray[np.uint16]:
    packed = np.full((len(logits), _native.packed_words(logits.shape[1])), 0xABCD, dtype=np.uint16)
    _native.pack(logits, targets, packed, isa=isa)
    return packed


def rows(vocab: int, seed: int = 0, scale: float = 4.0, noise: float = 0.3) -> tuple[Floats, Floats, Tokens]:
    draw = np.random.default_rng(seed)
    base = scale * draw.standard_normal((9, vocab))
    other = base + noise * draw.standard_normal(base.shape)
    return base.astype(np.float32), other.astype(np.float32), draw.integers(vocab, size=9, dtype=np.int32)


def one(*logits: float) -> Floats:
    return np.array([logits], dtype=np.float32)


ZERO = np.zeros(1, dtype=np.int32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", VOCABS)
def test_score_is_the_negative_log_probability(vocab: int, isa: str) -> None:
    logits, _, targets = rows(vocab)
    expected = -log_softmax(logits)[np.arange(len(logits)), targets]
    np.testing.assert_allclose(_native.score(logits, targets, isa=isa), expected, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", VOCABS)
def test_packing_keeps_log_probabilities_to_half_a_step(vocab: int, isa: str) -> None:
    logits, _, targets = rows(vocab)
    packed = pack(logits, targets, isa)
    below = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found = unpack(packed, vocab)
    found -= found.max(axis=1, keepdims=True)
    kept = np.isfinite(found)
    np.testing.assert_array_equal(kept, below >= -32)
    step = np.minimum(-below.min(axis=1, keepdims=True), 32) / 65534
    assert np.all(np.abs(np.where(kept, found - below, 0)) <= 0.5 * step + 4e-6)
    np.testing.assert_array_equal(packed[:, 2:4].copy().view(np.int32)[:, 0], logits.argmax(axis=1))
    if vocab % 2:
        assert not packed[:, -1].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", VOCABS)
def test_comparison_is_that_of_the_packed_distribution(vocab: int, isa: str) -> None:
    base, other, targets = rows(vocab)
    packed = pack(base, targets, isa)
    nll, kld, same_top = _native.compare(packed, other, targets, isa=isa)
    np.testing.assert_array_equal(nll, _native.score(other, targets, isa=isa))
    np.testing.assert_allclose(kld, divergence(unpack(packed, vocab), log_softmax(other)), rtol=1e-6, atol=2e-7)
    np.testing.assert_array_equal(same_top, base.argmax(axis=1) == other.argmax(axis=1))


@pytest.mark.parametrize("isa", ISAS)
def test_divergence_is_that_of_the_logits_as_they_were(isa: str) -> None:
    base, other, targets = rows(32000, noise=0.05)
    _, kld, _ = _native.compare(pack(base, targets), other, targets, isa=isa)
    np.testing.assert_allclose(kld, divergence(log_softmax(base), log_softmax(other)), rtol=2e-3)
    assert kld.mean() == pytest.approx(divergence(log_softmax(base), log_softmax(other)).mean(), rel=5e-4)


@pytest.mark.parametrize("vocab", VOCABS)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bits(vocab: int) -> None:
    base, other, targets = rows(vocab)
    results = []
    for isa in ISAS:
        for threads in (1, 2, 5, 64):
            packed = np.empty((len(base), _native.packed_words(vocab)), dtype=np.uint16)
            nll = _native.pack(base, targets, packed, threads=threads, isa=isa)
            compared = _native.compare(packed, other, targets, threads=threads, isa=isa)
            results.append(b"".join(a.tobytes() for a in (nll, packed, *compared)))
    assert len(set(results)) == 1


@pytest.mark.parametrize("isa", ISAS)
def test_exponentials_are_right_to_an_ulp(isa: str) -> None:
    copies = 4000
    x = -np.geomspace(1e-4, 20, 500).astype(np.float32)
    logits = np.repeat(x[:, None], copies + 1, axis=1)
    logits[:, 0] = 0
    total = np.exp(_native.score(logits, np.zeros(len(x), dtype=np.int32), isa=isa))
    np.testing.assert_allclose((total - 1) / copies, np.exp(x.astype(np.float64)), rtol=2**-23, atol=1e-15)


@pytest.mark.parametrize("isa", ISAS)
def test_logarithms_are_right(isa: str) -> None:
    for vocab in range(1, 300):  # equal logits: ln vocab
        found = _native.score(np.full((1, vocab), 7, dtype=np.float32), ZERO, isa=isa)
        np.testing.assert_allclose(found, np.log(vocab), rtol=4e-16, atol=0)


@pytest.mark.parametrize("isa", ISAS)
def test_a_wide_vocabulary_loses_nothing(isa: str) -> None:
    base, other, targets = rows(262144, scale=1.0, noise=0.01)
    nll, kld, _ = _native.compare(pack(base, targets), other, targets, isa=isa)
    np.testing.assert_allclose(nll, -log_softmax(other)[np.arange(9), targets], rtol=1e-8)
    np.testing.assert_allclose(kld, divergence(log_softmax(base), log_softmax(other)), rtol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
def test_nothing_diverges_from_itself(isa: str) -> None:
    for scale in (0.0, 0.1, 4.0, 30.0, 1e4):
        base, _, targets = rows(5000, scale=scale)
        _, kld, same_top = _native.compare(pack(base, targets), base, targets, isa=isa)
        assert np.all(kld >= 0)
        assert np.all(kld < 1e-7)
        assert same_top.all()


@pytest.mark.parametrize("isa", ISAS)
def test_impossible_tokens(isa: str) -> None:
    base, other = one(1, -np.inf, 2, -np.inf), one(1, -np.inf, 2, 0)
    expected = -log_softmax(base)[0, 2]
    assert _native.score(base, ZERO + 2, isa=isa)[0] == pytest.approx(expected)
    assert _native.score(base, ZERO + 1, isa=isa)[0] == np.inf
    nll, kld, same_top = _native.compare(pack(base, ZERO), other, ZERO, isa=isa)
    assert kld[0] == pytest.approx(divergence(log_softmax(base), log_softmax(other))[0], rel=1e-6)
    assert same_top[0]
    assert nll[0] == pytest.approx(-log_softmax(other)[0, 0])
    assert _native.compare(pack(other, ZERO), base, ZERO, isa=isa)[1][0] == np.inf


@pytest.mark.parametrize("isa", ISAS)
def test_huge_logits(isa: str) -> None:
    logits = one(3e38, -3e38, 0, 3e38)
    assert _native.score(logits, ZERO, isa=isa)[0] == pytest.approx(np.log(2))
    _, kld, same_top = _native.compare(pack(logits, ZERO), one(5, -100, -100, 5), ZERO, isa=isa)
    assert kld[0] == pytest.approx(0, abs=1e-12)
    assert same_top[0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [1, 20, 64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_without_a_distribution_is_not_a_number(bad: float, vocab: int, isa: str) -> None:
    for place in {0, vocab // 2, vocab - 1}:
        good = np.zeros((3, vocab), dtype=np.float32)
        spoilt = good.copy()
        spoilt[1, place] = bad
        targets = np.zeros(3, dtype=np.int32)
        np.testing.assert_array_equal(np.isnan(_native.score(spoilt, targets, isa=isa)), [False, True, False])
        for base, other in ((spoilt, good), (good, spoilt)):
            _, kld, same_top = _native.compare(pack(base, targets, isa), other, targets, isa=isa)
            np.testing.assert_array_equal(np.isnan(kld), [False, True, False])
            assert not same_top[1]
    assert np.isnan(_native.score(np.full((1, vocab), -np.inf, dtype=np.float32), ZERO, isa=isa)[0])


def test_equal_tops_are_decided_as_argmax_does() -> None:
    logits = np.zeros((1, 100), dtype=np.float32)
    logits[0, [40, 41, 99]] = 3
    shifted = logits.copy()
    shifted[0, 41] = 3.00001  # closer than a step of the packed base: its top must not be taken from the codes
    assert not _native.compare(pack(logits, ZERO), shifted, ZERO)[2][0]
    assert not _native.compare(pack(shifted, ZERO), logits, ZERO)[2][0]
    assert _native.compare(pack(shifted, ZERO), shifted, ZERO)[2][0]


@settings(deadline=None)
@given(st.integers(1, 700), st.floats(0.01, 50), st.floats(0, 5), st.integers(0, 2**32 - 1))
def test_any_rows(vocab: int, scale: float, noise: float, seed: int) -> None:
    base, other, targets = rows(vocab, seed, scale, noise)
    packed = pack(base, targets)
    nll, kld, same_top = _native.compare(packed, other, targets)
    p, q = unpack(packed, vocab), log_softmax(other)
    np.testing.assert_allclose(nll, -q[np.arange(9), targets], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(kld, divergence(p, q), rtol=1e-5, atol=1e-6)
    assert np.all(kld >= 0)
    np.testing.assert_array_equal(same_top, base.argmax(axis=1) == other.argmax(axis=1))


def test_rows_may_be_apart() -> None:
    base, other, targets = rows(100)
    wide = np.zeros((9, 128), dtype=np.float32)
    wide[:, :100] = other
    packed = pack(base, targets)
    for found, expected in zip(
        _native.compare(packed, wide[:, :100], targets), _native.compare(packed, other, targets), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(_native.score(other[::-1], targets), _native.score(other[::-1].copy(), targets))


def test_wrong_arrays_are_refused() -> None:
    base, _, targets = rows(16)
    packed = pack(base, targets)
    for wrong in (targets[1:], targets - 100, targets + 100):
        with pytest.raises(ValueError, match="targets: expected"):
            _native.score(base, wrong)
    with pytest.raises(ValueError, match="adjacent"):
        _native.score(base[:, ::2], targets % 8)
    with pytest.raises(ValueError, match="packed: expected one row"):
        _native.compare(packed[1:], base, targets)
    with pytest.raises(ValueError, match="packed_words"):
        _native.compare(packed[:, 2:].copy(), base, targets)
    with pytest.raises(ValueError, match=r"isa: expected one of .*, found mmx"):
        _native.score(base, targets, isa="mmx")
    with pytest.raises(TypeError):
        _native.score(base.astype(np.float64), targets)
    packed.flags.writeable = False
    with pytest.raises(TypeError):
        _native.pack(base, targets, packed)


def test_a_spoilt_top_token_is_not_followed() -> None:
    base, _, targets = rows(16)
    packed = pack(base, targets)
    packed[:, 2:4] = 0x7FFF
    assert np.isnan(_native.compare(packed, base, targets)[1]).all()
