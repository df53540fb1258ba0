"""The engine's sums against numpy's XᵀX in float64, on operands of all the shapes that products have."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from quantpress.blas import _functions, one_thread
from quantpress.engine.inputs import Input, Range
from quantpress.engine.moments import _Moments, _Sums
from quantpress.engine.products import Product
from quantpress.engine.tensor import checked_library
from quantpress.errors import EngineError
from quantpress.strips import unpacked

DRAW = np.random.default_rng(3)
NAME = "blk.0.x.weight"


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return DRAW.standard_normal(shape).astype(np.float32)


def sums(pool: ThreadPoolExecutor, cols: int, matrices: int = 1, *, held: int, rows: int = 1, **more: Any) -> _Sums:
    blocks = more.pop("blocks", (cols,))
    first, last = more.pop("only", (0, matrices))
    about = Input(NAME, (NAME,), cols, matrices, rows, more.pop("routed", False))
    return _Sums(Range(about, first, last, blocks), held, more.pop("sample", 512), pool)


def compare(found: _Sums, expected: list[np.ndarray[Any, Any]], samples: list[np.ndarray[Any, Any]]) -> None:
    """`expected`: the rows of each matrix."""
    seen, blocks = found.seen(), found.wanted.blocks
    assert seen.counts.tolist() == [len(rows) for rows in expected]
    assert seen.sampled.tolist() == [len(rows) for rows in samples]
    for one, rows, sample in zip(found.results(), expected, samples, strict=True):
        exact = rows.astype(np.float64).T @ rows.astype(np.float64)
        scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
        begin = 0
        for square in unpacked(one.sums, blocks):
            part = np.s_[begin : begin + len(square), begin : begin + len(square)]
            assert (np.abs(square - exact[part]) <= 1e-5 * scale[part] + 1e-30).all()
            begin += len(square)
        assert np.array_equal(one.sample, sample)


@pytest.mark.parametrize(("cols", "blocks"), [(40, (40,)), (600, (600,)), (600, (512, 88))])
def test_dense(pool: ThreadPoolExecutor, cols: int, blocks: tuple[int, ...]) -> None:
    """Three micro-batches of 400 tokens: one whole product of 512 rows and two of what is left."""
    found = sums(pool, cols, held=600, sample=6, blocks=blocks)
    values, held = normal(3, 400, cols), np.zeros((3, 400), dtype=np.bool_)
    held[:, 100:300] = True
    for one, out in zip(values, held, strict=True):
        found.add(Product(NAME, (1, 1), one[None, None], None), out)
    compare(found, [values[~held]], [values[held][::100]])


def test_more_rows_than_tokens_in_any_place(pool: ThreadPoolExecutor) -> None:
    """Heads before or after the tokens, and sequences around: of each row it is known whose token it is."""
    held = np.arange(24) % 3 == 0
    for shape, owner in (
        ((1, 1, 24), lambda i3, i2, i1: i1),
        ((1, 5, 24), lambda i3, i2, i1: i1),
        ((1, 24, 5), lambda i3, i2, i1: i2),
        ((3, 5, 8), lambda i3, i2, i1: 8 * i3 + i1),
        ((1, 3, 8), lambda i3, i2, i1: 8 * i2 + i1),
    ):
        values = normal(*shape, 7)
        out = held[np.fromfunction(np.vectorize(owner), shape, dtype=int)]
        each = out.size // 24
        found = sums(pool, 7, held=8, rows=each)
        found.add(Product(NAME, (1, 1), values, None), held)
        compare(found, [values[~out]], [values[out]])


def test_planes_of_several_matrices(pool: ThreadPoolExecutor) -> None:
    """As MLA has them, of one sequence and of several."""
    held = np.arange(24) < 12
    for values in (normal(1, 3, 24, 7), normal(2, 3, 12, 7)):
        found = sums(pool, 7, 3, held=12)
        found.add(Product(NAME, (1, 3), values, None), held)
        rows = [values[:, matrix].reshape(-1, 7) for matrix in range(3)]
        compare(found, [one[~held] for one in rows], [one[held] for one in rows])


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("only", [(0, 5), (1, 3)])
def test_experts(pool: ThreadPoolExecutor, inputs: int, only: tuple[int, int]) -> None:
    """The sample of each is what comes first; matrices out of the range are left to other passes."""
    tokens = 300
    found = sums(pool, 9, 5, held=tokens, rows=2, routed=True, sample=4, only=only)
    expected: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(5)]
    samples: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(5)]
    for _ in range(2):
        values, held = normal(tokens, inputs, 9), DRAW.random(tokens) < 0.2
        ids = np.argsort(normal(tokens, 5), axis=1).astype(np.int32)[:, :2]
        ids[ids == 4] = 3  # the last one sees nothing
        ids[ids[:, 0] == ids[:, 1], 1] = 0
        found.add(Product(NAME, (1, 5), values, ids), held)
        for token in range(tokens):
            for place, expert in enumerate(ids[token]):
                kind = samples if held[token] else expected
                kind[expert].append(values[token, place % inputs])
    part = slice(*only)
    compare(
        found,
        [np.array(rows, np.float32).reshape(-1, 9) for rows in expected[part]],
        [np.array(rows[:4], np.float32).reshape(-1, 9) for rows in samples[part]],
    )


def test_an_input_that_is_not_finite(pool: ThreadPoolExecutor) -> None:
    found, values = sums(pool, 9, held=0), normal(1, 1, 20, 9)
    values[0, 0, 3, 4] = np.inf
    found.add(Product(NAME, (1, 1), values, None), np.zeros(20, dtype=np.bool_))
    with np.errstate(invalid="ignore"), pytest.raises(EngineError, match=r"input of blk\.0\.x\.weight is not finite"):
        found.seen()


def test_an_input_of_another_size(pool: ThreadPoolExecutor) -> None:
    found, held = sums(pool, 9, held=0), np.zeros(20, dtype=np.bool_)
    with pytest.raises(EngineError, match=r"expected \(1, 9\) matrices and columns as before, found \(1, 8\)"):
        found.add(Product(NAME, (1, 1), normal(1, 1, 20, 8), None), held)
    with pytest.raises(EngineError, match="expected rows of 20 tokens, found"):
        found.add(Product(NAME, (1, 1), normal(1, 1, 19, 9), None), held)


def test_where_tokens_of_a_micro_batch_are() -> None:
    windows = np.arange(24, dtype=np.int32).reshape(3, 8)
    found = _Moments(checked_library(), {}, None)
    by_turns, in_turn = windows[:, :4].reshape(-1), windows.reshape(-1)[:12]
    for tokens, expected in ((by_turns, [0] * 4 + [1] * 4 + [0] * 4), (in_turn, [0] * 8 + [1] * 4)):
        found.start(windows, np.array([False, True, False]))
        found._locate(tokens)
        assert found.held_rows is not None
        assert found.held_rows.astype(int).tolist() == expected
    with pytest.raises(EngineError, match="micro-batch at token 12: expected tokens of 3 windows, found others"):
        found._locate(windows.reshape(-1)[:12])


def test_blas_takes_one_thread_within() -> None:
    functions = _functions()
    if functions is None:
        pytest.skip("numpy's BLAS is not OpenBLAS")
    get, _ = functions
    before = get()
    with one_thread():
        assert get() == 1
    assert get() == before
