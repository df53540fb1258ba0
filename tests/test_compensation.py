"""Factors and choices, recomputed in float64; what is asked from many threads, in any order, in any pieces."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantpress import codec, compensation, gguf, moments
from quantpress.arrays import Bytes, Floats
from quantpress.blas import one_thread
from quantpress.compensation import DAMPINGS, Choice, Compensation, compensation_keys, encode
from quantpress.factor import Factor, code_width, factorize, knows
from quantpress.formats import TYPES, TensorType
from quantpress.imatrix import Imatrix
from quantpress.moments.file import MOMENTS, SAMPLE, Entry, header_keys, write_rows, writing
from quantpress.origin import Header
from quantpress.strips import packed_size, strips
from tests.oracle import models

Doubles = NDArray[np.float64]
Q, K, UP, DOWN, EXPERTS = (f"blk.0.{name}.weight" for name in ("attn_q", "attn_k", "ffn_up", "ffn_down", "ffn_up_exps"))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Products of one thread each, which do not slow down on a busy machine."""
    with one_thread():
        yield


@dataclass(frozen=True, eq=False)
class Seen:
    """What the weights that share an input have seen: tokens [n, cols] of each matrix; some of them in no sum."""

    weights: tuple[str, ...]
    tokens: tuple[Floats, ...]
    samples: tuple[Floats, ...]
    blocks: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.weights[0]

    @property
    def entry(self) -> Entry:
        counts, sampled = (np.array([len(one) for one in rows]) for rows in (self.tokens, self.samples))
        return Entry(self.weights, self.blocks, counts, sampled)


def seen(
    weights: Sequence[str],
    cols: int,
    seed: int = 0,
    *,
    tokens: Sequence[int] = (600,),
    sample: int = 200,
    **how: object,
) -> Seen:
    """Correlated inputs, each matrix with those of its own."""
    draws = [correlated(count + min(count, sample), cols, seed + i) for i, count in enumerate(tokens)]
    parts = [(one[:count], one[count:]) for one, count in zip(draws, tokens, strict=True)]
    summed, held_out = zip(*parts, strict=True)
    return replace(Seen(tuple(weights), summed, held_out, (cols,)), **how)  # type: ignore[arg-type]


def correlated(count: int, cols: int, seed: int) -> Floats:
    draw = np.random.default_rng(seed)
    mixing = draw.standard_normal((cols, cols)) * np.exp(-np.arange(cols) / (cols / 6))[:, None]
    return (draw.standard_normal((count, cols)) @ mixing * draw.uniform(0.3, 2, cols)).astype(np.float32)


def write_moments(path: Path, inputs: Sequence[Seen], datasets: tuple[str, ...] = ("text.txt",)) -> Path:
    with writing(path, header_keys(Header(datasets, 10, 512)), {one.name: one.entry for one in inputs}) as writer:
        for one in inputs:
            row = 0
            for matrix, (tokens, sample) in enumerate(zip(one.tokens, one.samples, strict=True)):
                write_rows(writer, one.name + MOMENTS, matrix, packed(tokens.T @ tokens, one.blocks)[None])
                write_rows(writer, one.name + SAMPLE, row, sample)
                row += len(sample)
    return path


def packed(square: Floats, blocks: Sequence[int]) -> Floats:
    found = np.empty(packed_size(blocks), np.float32)
    for strip in strips(blocks):
        found[strip.start : strip.stop] = square[strip.first : strip.last, strip.first : strip.end].ravel()
    return found


def mean(tokens: Floats) -> Floats:
    return (tokens.T @ tokens / np.float32(len(tokens))).astype(np.float32)


def unpanelled(factor: Factor) -> Doubles:
    """U [cols, cols], from its panels."""
    cols = len(factor.order)
    upper, at = np.zeros((cols, cols)), 0
    for first in range(0, cols, 256):
        last = min(first + 256, cols)
        upper[:last, first:last] = factor.panels[at : at + last * (last - first)].reshape(last, last - first)
        at += last * (last - first)
    assert at == len(factor.panels)
    return upper


def check_factor(factor: Factor, second: Floats, damping: float) -> None:
    """U D Uᵀ is H, damped, in the order taken, as a multiple of its mean."""
    h = second.astype(float)
    middle = h.diagonal().mean() or 1.0
    h = h / middle + damping * np.eye(len(h))
    upper = unpanelled(factor)
    assert np.array_equal(upper, np.triu(upper))
    assert (upper.diagonal() == 1).all()
    assert (factor.diagonal > 0).all()
    expected = h[np.ix_(factor.order, factor.order)]
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert (np.abs((upper * factor.diagonal) @ upper.T - expected) <= 2e-6 * scale).all()
    by_column = np.empty(len(h))
    by_column[factor.order] = factor.diagonal
    np.testing.assert_allclose(factor.importance, np.sqrt(by_column * h.diagonal()), rtol=1e-5)


def check_order(factor: Factor, second: Floats, name: str) -> None:
    """Whole blocks by falling mass, in them whole groups by falling mass."""
    order, block, group = factor.order, TYPES[name].block, 8 if name.startswith(("IQ1", "IQ2", "IQ3")) else 1
    mass = second.diagonal().astype(float)[order]
    assert sorted(order) == list(range(len(order)))
    blocks = order.reshape(-1, block)
    assert (blocks // block == blocks[:, :1] // block).all()
    assert (np.diff(mass.reshape(-1, block).sum(axis=1)) <= 1e-6 * mass.max()).all()
    groups = order.reshape(-1, group)
    assert (groups == groups[:, :1] // group * group + np.arange(group)).all()
    assert (np.diff(mass.reshape(-1, block // group, group).sum(axis=2), axis=1) <= 1e-6 * mass.max()).all()


@pytest.mark.parametrize(("name", "cols"), [("Q4_0", 96), ("IQ4_NL", 544), ("Q4_K", 768), ("IQ2_S", 512)])
def test_a_factor_is_that_of_the_damped_moments(name: str, cols: int) -> None:
    second = mean(correlated(2 * cols, cols, 1))
    for damping in (DAMPINGS[-1], 1.0):
        factor = factorize(second, TYPES[name], damping)
        check_factor(factor, second, damping)
        check_order(factor, second, name)
        assert factor.nbytes == sum(
            getattr(factor, part).nbytes for part in ("panels", "diagonal", "importance", "order")
        )


@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "IQ3_XXS"])
def test_moments_that_are_singular(name: str) -> None:
    """Columns that no input has touched, fewer tokens than columns, one token, none at all."""
    few = correlated(40, 512, 2)
    dead = few.copy()
    dead[:, 3:300] = 0
    cases = {"few": mean(few), "dead": mean(dead), "one": mean(few[:1]), "nothing": np.zeros((512, 512), np.float32)}
    x = models.weights(3, 8, 512)
    for label, second in cases.items():
        for damping in (DAMPINGS[-1], 0.1):
            factor = factorize(second, TYPES[name], damping)
            check_factor(factor, second, damping)
            check_order(factor, second, name)
            values = codec.decode(encode(x, TYPES[name], (factor,)), name, 512, threads=1)
            assert np.isfinite(values).all(), label
            lost, whole = (np.einsum("ij,ij->", one @ second, one, dtype=float) for one in (x - values, x))
            assert lost <= 0.5 * whole, label


@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL", "Q4_K", "IQ2_XS"])
def test_ranges_of_columns_are_encoded_each_for_itself(name: str) -> None:
    x, type = models.weights(4, 9, 768), TYPES[name]
    parts = [(0, 512), (512, 768)]
    factors = tuple(factorize(mean(correlated(900, last - first, first)), type, 0.03) for first, last in parts)
    alone = [encode(x[:, first:last], type, (one,)) for (first, last), one in zip(parts, factors, strict=True)]
    whole = encode(x, type, factors)
    assert whole.shape == (9, type.row_bytes(768))
    assert np.array_equal(whole, np.concatenate(alone, axis=1))
    assert np.array_equal(encode(x, type, factors, threads=3), whole)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("dense") / "Tiny-BF16.gguf")


@contextmanager
def opened(
    model: Path, inputs: Sequence[Seen], folder: Path, imatrix: Imatrix | None = None
) -> Iterator[tuple[Mapping[str, gguf.Tensor], Compensation]]:
    path = write_moments(folder / "I.moments.gguf", inputs)
    with gguf.read(model) as source, moments.read(path) as found, Compensation(source, found, imatrix) as compensating:
        yield source.tensors, compensating


def weights_of(model: Path, name: str, matrix: int = 0) -> Floats:
    """float32 [rows, cols]."""
    with gguf.read(model) as source:
        tensor = source.tensors[name]
        x = codec.decode(source.data(name).reshape(tensor.rows, -1), tensor.type.name, tensor.cols, threads=1)
        return x.reshape(tensor.matrices, -1, tensor.cols)[matrix]


def missed(x: Floats, data: Bytes, type: str, sample: Floats) -> float:
    """What the errors of rows make of inputs, in float64."""
    errors = (x - codec.decode(data, type, x.shape[1], threads=1)).astype(float)
    return float(np.square(errors @ sample.T.astype(float)).sum())


def size_of(x: Floats, data: Bytes, type: str, sample: Floats) -> float:
    """How large the outputs of encoded rows are along those of the rows, in float64."""
    wanted, found = ((rows @ sample.T.astype(float)) for rows in (x, codec.decode(data, type, x.shape[1], threads=1)))
    return float((wanted * found).sum() / np.square(wanted).sum())


@pytest.mark.parametrize(("type", "with_imatrix"), [("Q4_0", False), ("Q3_K", True), ("IQ2_XXS", True)])
def test_the_damping_is_the_best_on_inputs_that_were_held_out(
    type: str, with_imatrix: bool, dense: Path, tmp_path: Path
) -> None:
    """Chosen by 64 rows, which are all that these tensors have; the fewer the tokens, the larger the damping."""
    imatrix = models.importance(dense, tmp_path / "I.gguf") if with_imatrix else None
    inputs = [seen([Q], 256, 1, tokens=(8000,)), seen([UP, "blk.0.ffn_gate.weight"], 256, 2, tokens=(40,))]
    dampings = []
    with opened(dense, inputs, tmp_path, imatrix) as (tensors, found):
        for one in inputs:
            x, second = weights_of(dense, one.name), mean(one.tokens[0])
            choice = found.choice(tensors[one.name], 0, TYPES[type])
            factors = {damping: factorize(second, TYPES[type], damping) for damping in DAMPINGS}
            encoded = {damping: encode(x, TYPES[type], (factor,)) for damping, factor in factors.items()}
            errors = {damping: missed(x, data, type, one.samples[0]) for damping, data in encoded.items()}
            columns = None if imatrix is None else imatrix.of(tensors[one.name])
            plain = missed(x, codec.encode(x, type, None if columns is None else columns[0]), type, one.samples[0])
            tried = DAMPINGS if one is inputs[1] else DAMPINGS[2:]
            best = next((a for a, b in pairwise(tried) if errors[b] > 0.98 * errors[a]), tried[-1])
            assert choice.damping == best
            assert choice.ratio == pytest.approx(errors[best] / plain, rel=1e-3)
            compensator = found.of(tensors[one.name], 0)
            assert compensator is not None
            data = compensator.encode(x, TYPES[type])
            assert data is not None
            size = size_of(x, encoded[best], type, one.samples[0])
            assert size < 1
            assert choice.factor == (1 if type == "Q4_0" else pytest.approx(size**-0.75, rel=1e-5))
            larger = x * np.float32(choice.factor)
            same = encode(larger, TYPES[type], found.factors(tensors[one.name], 0, TYPES[type], best))
            assert np.array_equal(data, same)
            if type != "Q4_0":
                assert size_of(x, data, type, one.samples[0]) == pytest.approx(size**0.25, abs=0.2 * (1 - size))
            dampings.append(best)
        assert found.choices.keys() == {(Q, 0, type), (UP, 0, type)}
    assert dampings[0] < dampings[1]


def test_plain_where_it_does_not_help(dense: Path, tmp_path: Path) -> None:
    """Moments of inputs in some directions, held-out inputs in all the others."""
    draw = np.random.default_rng(4)
    basis = np.linalg.qr(draw.standard_normal((256, 256)))[0]
    tokens, sample = (
        (draw.standard_normal((500, 128)) @ half).astype(np.float32) for half in (basis[:128], basis[128:])
    )
    one = Seen((Q,), (tokens,), (sample,), (256,))
    with opened(dense, [one], tmp_path) as (tensors, found):
        choice = found.choice(tensors[Q], 0, TYPES["Q4_0"])
        assert choice.damping is None
        assert choice.ratio is not None
        assert choice.ratio > 1
        compensator = found.of(tensors[Q], 0)
        assert compensator is not None
        assert compensator.encode(weights_of(dense, Q), TYPES["Q4_0"]) is None


def test_without_held_out_inputs(dense: Path, tmp_path: Path) -> None:
    one = seen([Q], 256, sample=0)
    with opened(dense, [one], tmp_path) as (tensors, found):
        assert found.choice(tensors[Q], 0, TYPES["Q4_K"]) == Choice(0.03, None)
        compensator = found.of(tensors[Q], 0)
        assert compensator is not None
        data, x = compensator.encode(weights_of(dense, Q), TYPES["Q4_K"]), weights_of(dense, Q)
        assert data is not None
        expected = encode(x, TYPES["Q4_K"], (factorize(mean(one.tokens[0]), TYPES["Q4_K"], 0.03),))
        assert missed(x, data, "Q4_K", one.tokens[0]) == pytest.approx(
            missed(x, expected, "Q4_K", one.tokens[0]), rel=0.02
        )


def test_tensors_and_experts_without_moments(tmp_path: Path) -> None:
    model = models.save(tmp_path / "Tiny-MoE-BF16.gguf", models.MIXTURE)
    one = seen([EXPERTS], 256, tokens=(300, 0, 20, 900, 300, 300, 300, 1))
    with opened(model, [one], tmp_path) as (tensors, found):
        assert found.of(tensors["blk.0.attn_v.weight"], 0) is None
        assert [found.of(tensors[EXPERTS], i) is None for i in range(8)] == [i == 1 for i in range(8)]
        for matrix, tokens in enumerate(one.tokens):
            compensator = found.of(tensors[EXPERTS], matrix)
            if compensator is None:
                continue
            x = weights_of(model, EXPERTS, matrix)
            energy = np.square(x.astype(float) @ tokens.T.astype(float)).mean(axis=1)
            np.testing.assert_allclose(compensator.cost(x), energy, rtol=1e-4, atol=1e-12)
            data = compensator.encode(x, TYPES["Q4_0"])
            choice = found.choices[EXPERTS, matrix, "Q4_0"]
            assert (data is None) == (choice.damping is None)
            if data is not None:
                factor = factorize(mean(tokens), TYPES["Q4_0"], choice.damping or 0)
                expected = encode(x, TYPES["Q4_0"], (factor,))
                assert missed(x, data, "Q4_0", tokens) == pytest.approx(missed(x, expected, "Q4_0", tokens), rel=0.02)


def test_moments_in_diagonal_blocks(dense: Path, tmp_path: Path) -> None:
    """K has 512 columns: what is between its halves is neither kept nor used."""
    one = seen([K], 512, blocks=(256, 256))
    with opened(dense, [one], tmp_path) as (tensors, found):
        compensator = found.of(tensors[K], 0)
        assert compensator is not None
        x, second = weights_of(dense, K), mean(one.tokens[0])
        data = compensator.encode(x, TYPES["Q3_K"])
        choice = found.choices[K, 0, "Q3_K"]
        assert data is not None
        assert choice.damping is not None
        larger, halves = x * np.float32(choice.factor), (slice(0, 256), slice(256, 512))
        alone = [
            encode(larger[:, at], TYPES["Q3_K"], (factorize(second[at, at], TYPES["Q3_K"], choice.damping),))
            for at in halves
        ]
        expected = np.concatenate(alone, axis=1)
        errors = [missed(x, one_, "Q3_K", one.samples[0]) for one_ in (data, expected)]
        assert errors[0] == pytest.approx(errors[1], rel=0.02)
        h = [second[at, at].astype(float) for at in halves]
        energy = sum(np.einsum("ij,ij->i", x[:, at] @ part, x[:, at]) for at, part in zip(halves, h, strict=True))
        np.testing.assert_allclose(compensator.cost(x), energy, rtol=1e-4)


ASKED = [(name, type) for name in (Q, UP, DOWN) for type in ("Q4_0", "Q4_K", "IQ3_S", "Q6_K")]


def inputs_asked() -> list[Seen]:
    return [seen([Q], 256, 1), seen([UP, "blk.0.ffn_gate.weight"], 256, 2), seen([DOWN], 256, 3)]


def encoded(tensors: Mapping[str, gguf.Tensor], found: Compensation, name: str, type: str, x: Floats) -> Bytes:
    compensator = found.of(tensors[name], 0)
    assert compensator is not None
    data = compensator.encode(x, TYPES[type])
    assert data is not None
    return data


def test_many_threads_at_once(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each factor is made once, whoever asks first; what was made is the same as for one thread."""
    x = {name: weights_of(dense, name) for name in (Q, UP, DOWN)}
    with opened(dense, inputs_asked(), tmp_path) as (tensors, found):
        expected = [encoded(tensors, found, name, type, x[name]) for name, type in ASKED]
        choices = dict(found.choices)
    made, guard, barrier = [], threading.Lock(), threading.Barrier(8, timeout=60)

    def counted(second: Floats, type: TensorType, damping: float) -> Factor:
        with guard:
            made.append((float(second[0, 0]), type.block, code_width(type) > 1, damping))
        return factorize(second, type, damping)

    monkeypatch.setattr(compensation, "factorize", counted)
    with opened(dense, inputs_asked(), tmp_path) as (tensors, found), ThreadPoolExecutor(8) as pool:

        def all_of(shift: int) -> list[Bytes]:
            barrier.wait()
            turned = ASKED[shift:] + ASKED[:shift]
            results = [encoded(tensors, found, name, type, x[name]) for name, type in turned]
            return results[len(ASKED) - shift :] + results[: len(ASKED) - shift]

        for results in pool.map(all_of, [0, 0, 1, 3, 4, 4, 8, 11]):
            assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
        assert found.choices == choices
    assert len(made) == len(set(made))
    assert len({key[:3] for key in made}) == 3 * 3  # orders: blocks of 32, of 256, and of 256 in groups of eight


def test_the_order_of_asking_pieces_and_a_full_cache_change_nothing(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = {name: weights_of(dense, name) for name in (Q, UP, DOWN)}
    with opened(dense, inputs_asked(), tmp_path) as (tensors, found):
        expected = {one: encoded(tensors, found, *one, x[one[0]]) for one in ASKED}
        choices = dict(found.choices)
    monkeypatch.setattr(compensation, "_CACHE_BYTES", 1)
    with opened(dense, inputs_asked(), tmp_path) as (tensors, found):
        for one in reversed(ASKED):
            rows = x[one[0]]
            pieces = [
                encoded(tensors, found, *one, rows[first:last]) for first, last in ((40, len(rows)), (0, 1), (1, 40))
            ]
            assert np.array_equal(np.concatenate([*pieces[1:], pieces[0]]), expected[one])
        assert found.choices == choices


def test_what_a_file_says_of_its_moments() -> None:
    count = {"quantize.compensated.chunks_count": gguf.Value.u32(9)}
    assert compensation_keys(None, 9) == count
    name = {"quantize.compensated.dataset": gguf.Value.string("wiki.txt")}
    assert compensation_keys("folder/wiki.txt", 9) == count | name


def test_which_types_are_known() -> None:
    assert [name for name in ("Q4_0", "IQ1_M", "TQ2_0", "MXFP4") if not knows(TYPES[name])] == []
    assert [name for name in ("F32", "F16", "BF16", "I8", "Q1_0", "NVFP4") if knows(TYPES[name])] == []
