"""Encoding with feedback against a float64 recursion; every type that has codes, every instruction set.

Nothing here knows how our core packs codes: which values a code can stand for is what the gguf package decodes when the
bits of the codes are replaced by others. Only where those bits are is written down here, from ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from quantpress import _native, codec
from quantpress.arrays import Bytes, Floats
from quantpress.blas import one_thread
from quantpress.engine import ggml
from quantpress.formats import TYPES
from tests.native.test_codec import hard_rows

Doubles = NDArray[np.float64]

ISAS = _native.isas()
WIDTHS = _native.code_widths()
SCALAR = [name for name, width in WIDTHS.items() if width == 1]
GRIDS = [name for name, width in WIDTHS.items() if width > 1]
GROUP = 8

# Of a type with a code a weight: the bytes of its codes, and what to fill them with so that all codes are 0, 1, ...
Fills = dict[tuple[int, int], list[int]]
NIBBLES, PAIRS, BITS = [17 * i for i in range(16)], [85 * i for i in range(4)], [0, 255]
FILLS: dict[str, Fills] = {
    "Q4_0": {(2, 18): NIBBLES},
    "Q4_1": {(4, 20): NIBBLES},
    "Q5_0": {(2, 6): BITS, (6, 22): NIBBLES},
    "Q5_1": {(4, 8): BITS, (8, 24): NIBBLES},
    "Q8_0": {(2, 34): list(range(256))},
    "Q2_K": {(16, 80): PAIRS},
    "Q3_K": {(0, 32): BITS, (32, 96): PAIRS},
    "Q4_K": {(16, 144): NIBBLES},
    "Q5_K": {(16, 48): BITS, (48, 176): NIBBLES},
    "Q6_K": {(0, 128): NIBBLES, (128, 192): PAIRS},
    "IQ4_NL": {(2, 18): NIBBLES},
    "IQ4_XS": {(8, 136): NIBBLES},
    "TQ1_0": {(0, 52): [0, 128, 255]},  # ⌈256 · ccccc / 3^5⌉ for digits c
    "TQ2_0": {(0, 64): PAIRS[:3]},
    "MXFP4": {(1, 17): NIBBLES},
}

# Of a type with codes for several weights: the bits of a block that are codes or signs, as (bytes, mask of each).
WORDS = [(2 + 8 * i + j, (255, 255, 255, 255, 255, 255, 255, 15)[j]) for i in range(8) for j in range(8)]
CODES: dict[str, list[tuple[int, int]]] = {
    "IQ1_S": [(i, 255) for i in range(2, 34)] + [(34 + i, (255, 15)[i % 2]) for i in range(16)],
    "IQ1_M": [(i, 255) for i in range(32)] + [(i, 0x77) for i in range(32, 48)],
    "IQ2_XXS": WORDS,
    "IQ2_XS": [(i, 255) for i in range(2, 66)],
    "IQ2_S": [(i, 255) for i in range(2, 74)],
    "IQ3_XXS": [(i, 255) for i in range(2, 66)] + [(66 + i, (255, 255, 255, 15)[i % 4]) for i in range(32)],
    "IQ3_S": [(i, 255) for i in range(2, 106)],
}
EVEN = ("IQ2_XXS", "IQ2_XS", "IQ3_XXS")  # an even number of eight signs is negative
UNSIGNED = ("IQ1_S", "IQ1_M")  # all codes are compared; of others not all signs, and not all pairs of codes


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Products of one thread each, which do not slow down on a busy machine."""
    with one_thread():
        yield


@dataclass(frozen=True)
class Moments:
    """H = U D Uᵀ in the order taken, and what goes into the core."""

    h: Doubles  # damped
    upper: Doubles
    diagonal: Doubles
    order: NDArray[np.int32]

    @property
    def importance(self) -> Floats:
        return (self.h.diagonal() / self.h.diagonal().mean()).astype(np.float32)


def moments(name: str, cols: int, seed: int = 0) -> Moments:
    """Of correlated inputs whose spectrum decays, damped a little; in an order that the type allows."""
    return _moments(TYPES[name].block, 1 if WIDTHS[name] == 1 else GROUP, cols, seed)


@cache
def _moments(block: int, group: int, cols: int, seed: int) -> Moments:
    """Blocks, groups in a block and weights in a group (where a code is of one) at random."""
    draw, count = np.random.default_rng(seed), block // group
    h = covariance(cols, seed)
    places = [b * count + draw.permutation(count) for b in draw.permutation(cols // block)]
    order = (np.concatenate(places)[:, None] * group + np.arange(group)).ravel().astype(np.int32)
    return factored(h, order)


@cache
def covariance(cols: int, seed: int) -> Doubles:
    draw = np.random.default_rng(seed)
    mixing = draw.standard_normal((cols, cols)) * np.exp(-np.arange(cols) / (cols / 6))[:, None]
    x = draw.standard_normal((2 * cols, cols)) @ mixing * draw.uniform(0.3, 2, cols)
    h = x.T @ x / len(x)
    damped: Doubles = h + 0.01 * h.diagonal().mean() * np.eye(cols)
    return damped


def factored(h: Doubles, order: NDArray[np.int32]) -> Moments:
    """By a Cholesky factorization of the columns in reverse."""
    upper = np.linalg.cholesky(h[np.ix_(order[::-1], order[::-1])])[::-1, ::-1]
    return Moments(h, upper / upper.diagonal(), upper.diagonal() ** 2, order)


def diagonal_moments(importance: Floats) -> Moments:
    cols = len(importance)
    values = importance.astype(float)
    return Moments(np.diag(values), np.eye(cols), values, np.arange(cols, dtype=np.int32))


def panels(upper: Doubles) -> Floats:
    starts = range(0, len(upper), 256)
    return np.concatenate([upper[: start + 256, start : start + 256].astype(np.float32).ravel() for start in starts])


def compensated(x: Floats, name: str, given: Moments, importance: Floats | None = None, **how: object) -> Bytes:
    out = np.full((len(x), TYPES[name].row_bytes(x.shape[1])), 0xAA, np.uint8)
    weights = given.importance if importance is None else importance
    diagonal = given.diagonal.astype(np.float32)
    _native.compensate(x, name, out, panels(given.upper), diagonal, weights, given.order, **how)  # type: ignore[arg-type]
    return out


def plain(x: Floats, name: str, importance: Floats) -> Bytes:
    out = np.empty((len(x), TYPES[name].row_bytes(x.shape[1])), np.uint8)
    _native.encode(x.view(np.uint8), "F32", x.shape[1], [name], [out], importance)
    return out


def decoded(data: Bytes, name: str) -> Doubles:
    """By the gguf package: [rows, cols]."""
    return gguf.quants.dequantize(data, gguf.GGMLQuantizationType(TYPES[name].id)).astype(float)


def rows_of(count: int, cols: int, seed: int = 21) -> Floats:
    return (0.02 * np.random.default_rng(seed).standard_t(4, (count, cols))).astype(np.float32)


def sizes(name: str) -> tuple[int, ...]:
    return (256, 768) if TYPES[name].block == 256 else (256, 768, 320)


def costs(x: Floats, data: Bytes, name: str, given: Moments) -> Doubles:
    """e H eᵀ of each row."""
    errors = x - decoded(data, name)
    found: Doubles = np.einsum("ij,ij->i", errors @ given.h, errors)
    return found


def targets(x: Floats, values: Doubles, given: Moments) -> Doubles:
    """Where the weights should have been, each with the errors of those before it: in the order taken."""
    errors = (x - values)[:, given.order]
    return x[:, given.order] + errors @ np.triu(given.upper, 1)


@pytest.mark.parametrize("name", WIDTHS)
def test_independent_inputs_leave_nothing_to_pay_back(name: str) -> None:
    """A code a weight: the bytes of plain encoding, but for ties. Codes of several: at least as good."""
    for cols in sizes(name):
        x, importance = (
            rows_of(40, cols),
            (np.random.default_rng(3).standard_gamma(0.5, cols) + 1e-3).astype(np.float32),
        )
        given = diagonal_moments(importance)
        expected, found = plain(x, name, importance), compensated(x, name, given, importance)
        was, now = costs(x, expected, name, given), costs(x, found, name, given)
        if name in SCALAR:
            blocks = (expected == found).reshape(-1, TYPES[name].bytes).all(axis=1)
            assert blocks.mean() > 0.99
            np.testing.assert_allclose(now, was, rtol=1e-6)
        elif name == "IQ3_XXS":  # where the number of negative signs must be even, plain encoding tries more
            assert now.sum() <= 1.01 * was.sum()
        else:
            assert (now <= was * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", WIDTHS)
def test_correlated_errors_are_paid_back(name: str) -> None:
    for seed, cols in enumerate(sizes(name)):
        given, x = moments(name, cols, seed), rows_of(16, cols, seed)
        was, now = (
            costs(x, plain(x, name, given.importance), name, given),
            costs(x, compensated(x, name, given), name, given),
        )
        assert now.sum() < 0.6 * was.sum()


@cache
def _filled(name: str) -> tuple[tuple[tuple[int, int], ...], list[tuple[int, ...]]]:
    return tuple(FILLS[name]), list(product(*FILLS[name].values()))


def alphabets(data: Bytes, name: str) -> Doubles:
    """What each weight could have been under the scales of its block: [codes, rows, cols]."""
    spans, fills = _filled(name)
    found = []
    for fill in fills:
        blocks = data.reshape(-1, TYPES[name].bytes).copy()
        for (first, last), byte in zip(spans, fill, strict=True):
            blocks[:, first:last] = byte
        found.append(decoded(blocks.reshape(data.shape), name))
    return np.stack(found)


@pytest.mark.parametrize("name", SCALAR)
def test_every_code_is_the_nearest_to_its_target(name: str) -> None:
    """The targets are those that follow from the codes before."""
    for seed, cols in enumerate(sizes(name)):
        given, x = moments(name, cols, seed), rows_of(16, cols, seed)
        data = compensated(x, name, given)
        values = decoded(data, name)
        aims = targets(x, values, given)
        could = alphabets(data, name)[..., given.order]
        taken, best = np.abs(values[:, given.order] - aims), np.abs(could - aims).min(axis=0)
        assert (taken >= best).all()  # the value is one of the alphabet
        assert (taken == best).mean() > 0.999
        reach = np.ptp(could, axis=0) + 1e-12
        assert ((taken - best) / reach).max() < 1e-4  # only ties differ


@pytest.mark.parametrize("name", SCALAR)
def test_costs_are_those_of_the_recursion(name: str) -> None:
    """Run on its own, column by column in float64, under the scales that were found."""
    for seed, cols in enumerate(sizes(name)):
        given, x = moments(name, cols, seed), rows_of(16, cols, seed)
        data = compensated(x, name, given)
        could, strict = alphabets(data, name), np.triu(given.upper, 1)
        aims, errors = x[:, given.order].astype(float), np.zeros(x.shape)
        for place, column in enumerate(given.order):
            aim = aims[:, place] + errors @ strict[:, place]
            levels = could[..., column]
            chosen = np.take_along_axis(levels, np.abs(levels - aim).argmin(axis=0)[None], 0)[0]
            errors[:, place] = x[:, column] - chosen
        expected = np.square(errors @ given.upper) @ given.diagonal
        found = costs(x, data, name, given)
        same = np.abs(found / expected - 1) < 1e-3
        assert same.mean() > 0.9  # a row where a tie falls to the other side goes a way of its own
        np.testing.assert_allclose(found.sum(), expected.sum(), rtol=0.01 if same.mean() < 1 else 1e-3)


def grid(name: str) -> Doubles:
    """Entries of a type's codes: [entries, weights of a code]."""
    of = getattr(gguf.quants, {"IQ1_M": "IQ1_S"}.get(name, name))
    of.init_grid()
    return of.grid.reshape(-1, of.grid.shape[-1]).astype(float)


def with_bits(data: Bytes, name: str, byte: int) -> Doubles:
    """Decoded with other codes, all bits of `byte`, under the same scales."""
    blocks = data.reshape(-1, TYPES[name].bytes).copy()
    for at, mask in CODES[name]:
        blocks[:, at] = blocks[:, at] & (255 - mask) | byte & mask
    return decoded(blocks.reshape(data.shape), name)


def signed(entries: Doubles, count: int, even: bool) -> Doubles:
    """Entries with all signs that there are: [signs × entries, count]."""
    signs = np.array(list(product([1, -1], repeat=count)), float)
    if even:
        signs = signs[signs.prod(axis=1) > 0]
    return (signs[:, None] * entries).reshape(-1, count)


def cheapest(name: str, aim: Doubles, step: float, triangle: Doubles, limit: float) -> float:
    """The least |e M|² that any codes and signs of a group of eight have, `limit` or less, by trying all of them."""
    if WIDTHS[name] == GROUP:
        entries = grid(name) if name in UNSIGNED else signed(grid(name), GROUP, name in EVEN)
        return float(np.square(aim @ triangle - entries @ (step * triangle)).sum(axis=1).min())
    best, half = np.inf, signed(grid(name), 4, even=False)
    first, second = (aim[:4] - step * half) @ triangle[:4], (aim[4:] - step * half) @ triangle[4:, 4:]
    cost = np.square(first[:, :4]).sum(axis=1)  # of the first half, which knows nothing of the second
    negative = (half < 0).sum(axis=1) % 2
    for one in np.flatnonzero(cost <= limit * (1 + 1e-3)):
        able = negative == negative[one] if name in EVEN else slice(None)
        best = min(best, float(cost[one] + np.square(first[one, 4:] + second[able]).sum(axis=1).min()))
    return best


@pytest.mark.parametrize("name", GRIDS)
def test_every_group_of_codes_is_nearly_the_cheapest(name: str) -> None:
    """Of all codes and signs that there are, under the scales of the result; where there are no signs, the cheapest."""
    groups = 12
    given, x = moments(name, 256, 1), rows_of(groups, 256, 1)
    data = compensated(x, name, given)
    values = decoded(data, name)
    low, high, errors = with_bits(data, name, 0), with_bits(data, name, 255), x - values
    found, least = [], []
    for row in range(groups):
        start = row * GROUP
        here, columns = slice(start, start + GROUP), given.order[start : start + GROUP]
        triangle = given.upper[here, here] * np.sqrt(given.diagonal[here])
        before = errors[row, given.order[:start]] @ given.upper[:start, here]
        aim = x[row, columns] + np.linalg.solve(given.upper[here, here].T, before)
        at = columns[0]
        step, offset = low[row, at] / grid(name)[0, 0], 0.0
        if name.startswith("IQ1"):
            step, offset = (high[row, at] - low[row, at]) / 2, (high[row, at] + low[row, at]) / 2
        found.append(np.square((aim - values[row, columns]) @ triangle).sum())
        least.append(cheapest(name, aim - offset, step, triangle, found[-1]))
    ratio = np.array(found) / least
    assert ratio.min() > 1 - 1e-4  # no other codes than those
    assert np.sum(found) < (1.0001 if name in UNSIGNED else 1.05) * np.sum(least)


@pytest.mark.parametrize("name", WIDTHS)
def test_the_bytes_do_not_depend_on_threads_neighbours_or_the_instruction_set(name: str) -> None:
    cols = 320 if TYPES[name].block == 32 else 256
    given, x = moments(name, cols, 3), rows_of(130, cols, 3)
    expected = compensated(x, name, given)
    for threads in (2, 5):
        assert np.array_equal(compensated(x, name, given, threads=threads), expected), threads
    for isa in ISAS:
        assert np.array_equal(
            compensated(x[:17], name, given, rounds=2, isa=isa), compensated(x[:17], name, given, rounds=2)
        ), isa
    for first, count in ((0, 1), (1, 15), (9, 16), (20, 17), (60, 64), (65, 65)):
        found = compensated(x[first : first + count], name, given)
        assert np.array_equal(found, expected[first : first + count]), (first, count)


@pytest.mark.parametrize("name", WIDTHS)
def test_more_rounds_are_no_worse(name: str) -> None:
    """Of the first block, whose targets do not depend on the others: Σ D r², r being what is left of its targets.

    With the fast search, which is that of all rounds then.
    """
    given, x = moments(name, 256, 4), rows_of(64, 256, 4)
    first = slice(0, TYPES[name].block)
    found = []
    for rounds in (1, 2, 3, 6):
        values = decoded(compensated(x, name, given, rounds=rounds, effort=0), name)
        rest = targets(x, values, given) - values[:, given.order]
        found.append(np.square(rest)[:, first] @ given.diagonal[first])
    for before, after in pairwise(found):
        assert (after <= before * (1 + 1e-5)).all()
    assert found[1].sum() < found[0].sum() or name == "MXFP4"  # whose scales are powers of two


@cache
def awkward(cols: int) -> dict[str, Moments]:
    """Diagonals of very different sizes, and factors that pass on much."""
    near = 0.98 ** np.abs(np.subtract.outer(np.arange(cols), np.arange(cols)))
    sizes = np.exp(np.random.default_rng(8).normal(0, 6, cols))
    alone = np.zeros((cols, cols))
    alone[5, 5] = 1
    found = {"correlated": near, "of very different sizes": near * np.sqrt(np.outer(sizes, sizes)), "one alive": alone}
    order = np.arange(cols, dtype=np.int32)
    return {name: factored(h + 0.01 * h.diagonal().mean() * np.eye(cols), order) for name, h in found.items()}


@pytest.mark.parametrize("name", WIDTHS)
def test_hard_rows_are_encoded_validly(name: str) -> None:
    """Blocks that ggml accepts, and errors no larger than those of a row of zeros."""
    rows = hard_rows()
    x = np.concatenate(list(rows.values()))
    for label, given in awkward(x.shape[1]).items():
        for rounds in (1, 3):
            data = compensated(x, name, given, rounds=rounds)
            assert ggml.valid(data, TYPES[name]), label
            values = decoded(data, name)
            assert np.isfinite(values).all(), label
            ours = codec.decode(data, name, x.shape[1], threads=1)
            assert np.array_equal(ours.astype(float), values)
            if rounds > 1:  # else a row of zeros with a few large weights can run away
                errors, sizes = costs(x, data, name, given), np.einsum("ij,ij->i", x @ given.h, x.astype(float))
                for row, error, size in zip(rows, errors, sizes, strict=True):
                    assert error <= size * (1 + 1e-6) or row == "under float16", (label, row)
