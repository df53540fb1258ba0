"""Second moments of the inputs of weights, H = Σ x xᵀ over tokens, collected while llama.cpp evaluates.

Weights that are multiplied with the same tensor of llama.cpp's graph share an input: `inputs` finds that out, once, in
one evaluation, where a tensor's address is its identity. Which weights are looked at, `activations.wanted` says.

Rows wait until there are 512 of them: then each strip of the upper triangle (see strips.py) gets one product in float32
and is added in float64. Products run in threads of ours while llama.cpp goes on, each by a BLAS of one thread; those of
one matrix wait for those before them, so that the sums do not depend on the number of threads. Nor do they depend on
what else is collected in the same pass.

The tokens of held-out chunks are not summed. A few of them are kept as they are: evenly spread ones, or of experts the
first that come. Which row of a micro-batch is of which chunk is read off the graph as well: llama.cpp looks its tokens
up in the embedding, and may take those of several sequences by turns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from quantpress.blas import one_thread
from quantpress.engine.activations import collector, wanted
from quantpress.engine.inputs import Collected, Input, Range, Seen
from quantpress.engine.messages import Tokens
from quantpress.engine.products import Product, Watcher, is_product, read_product, values_of, weight_name
from quantpress.engine.session import Session
from quantpress.engine.tensor import I32, Library, Tensor, checked_library
from quantpress.errors import EngineError
from quantpress.strips import Strip, packed_size, strips

__all__ = ["inputs", "moments"]

PRODUCT_ROWS = 512
_EMBEDDING = "token_embd.weight"

Floats = NDArray[np.float32]
Squares = dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]


def inputs(session: Session, window: Tokens, process_output: bool) -> Iterator[list[Input]]:
    """The distinct inputs of weights, found by evaluating int32 [tokens] of at most one micro-batch."""
    found = _Discovery(checked_library(), len(window), process_output)
    found.evaluate(session, window[None])
    yield found.inputs()


def moments(
    session: Session,
    chunks: Tokens,
    held_out: Sequence[int],
    wanted: Sequence[Range],
    sample: int,
    every: int,
    squares: bool,
    process_output: bool,
    stop: bool,
) -> Iterator[tuple[int, Squares] | dict[str, Seen] | Collected]:
    """Evaluate int32 chunks [n, length] and sum the second moments of the inputs that are wanted.

    `held_out` chunks are not summed; of their rows at most `sample` a matrix are kept. With `squares` also what
    `activations` collects, of all chunks. Without, and with `stop`, a micro-batch is evaluated no further than the last
    input that is wanted: no layer needs those behind it. That is for models without experts: where several devices
    evaluate, the next one goes on with what was not computed, and routes have to be valid.

    Yields (chunks done, squares since the last item) as `activations` does, then {name: what was seen}, then each
    matrix. Raises EngineError if an input is not finite.
    """
    held = np.zeros(len(chunks), dtype=np.bool_)
    held[list(held_out)] = True
    with one_thread(), ThreadPoolExecutor(session.settings.threads) as pool:
        tokens = int(np.count_nonzero(held)) * chunks.shape[1]
        sums = {one.input.name: _Sums(one, tokens, sample, pool) for one in wanted}
        also = collector(session, process_output) if squares else None
        watcher = _Moments(checked_library(), sums, also, stop and not squares)
        done = sent = 0
        for windows in session.batches(chunks):
            watcher.start(windows, held[done : done + len(windows)])
            watcher.evaluate(session, windows)
            done += len(windows)
            if done - sent >= every or done == len(chunks):
                sent = done
                yield done, also.take() if also else {}
        yield {name: found.seen() for name, found in sums.items()}
        for name in list(sums):
            yield from sums.pop(name).results()


class _Discovery(Watcher):
    """Notes what each weight is multiplied with; nothing needs to be computed for that, so nothing is wanted."""

    def __init__(self, library: Library, tokens: int, process_output: bool) -> None:
        super().__init__(library)
        self.tokens, self.process_output = tokens, process_output
        self.visits: dict[str, list[tuple[int, int]]] = {}  # addresses of the input and of the routes
        self.sizes: dict[str, tuple[int, int, int, bool]] = {}  # columns, matrices, rows of all, routed

    def wants(self, node: Tensor) -> bool:
        if not is_product(self.library, node):
            return False
        weight, values = node.source(0), node.source(1)
        name, routed = weight_name(weight), node.op == self.library.mul_mat_id
        if wanted(name, self.process_output):
            matrices = weight.ne[2] * weight.ne[3]
            each = node.source(2).ne[0] * self.tokens if routed else values.ne[1] * values.ne[2] * values.ne[3]
            before = self.sizes.get(name, (0, 0, 0, False))[2]
            self.sizes[name] = values.ne[0], matrices, before + each, routed
            self.visits.setdefault(name, []).append((node.src[1], node.src[2] if routed else 0))
        return False

    def inputs(self) -> list[Input]:
        """In the graph's order; weights that share one have had the same input every time."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, visits in self.visits.items():
            groups.setdefault((*visits, self.sizes[name]), []).append(name)
        return [self._input(tuple(weights)) for weights in groups.values()]

    def _input(self, weights: tuple[str, ...]) -> Input:
        cols, matrices, rows, routed = self.sizes[weights[0]]
        each, left = divmod(rows, self.tokens * (1 if routed else matrices))
        if left or not each:
            expected = f"{self.tokens} tokens' rows or a multiple for each of {matrices} matrices"
            raise EngineError(f"{weights[0]}: expected {expected}, found {rows} in all")
        return Input(weights[0], weights, cols, matrices, each, routed, len(self.visits[weights[0]]))


class _Moments(Watcher):
    """Adds up the inputs that are wanted, and gives all products to the collector of squares, if there is one."""

    def __init__(
        self, library: Library, sums: Mapping[str, _Sums], squares: Watcher | None = None, stop: bool = False
    ) -> None:
        super().__init__(library)
        self.sums, self.squares, self.stop = sums, squares, stop
        self.lookups: dict[int, bool] = {}

    def start(self, windows: Tokens, held: NDArray[np.bool_]) -> None:
        """The next windows to be evaluated, and which of them are held out."""
        self.windows, self.held, self.done = windows, held, 0
        self.held_rows: NDArray[np.bool_] | None = None

    def wants(self, node: Tensor) -> bool:
        if self._is_lookup(node):
            return True
        if not is_product(self.library, node):
            return False
        summed = weight_name(node.source(0)) in self.sums
        return summed or (self.squares is not None and self.squares.wants(node))

    def collect(self, node: Tensor) -> None:
        if self._is_lookup(node):
            self._locate(values_of(self.library, node.source(1), I32, np.int32, _EMBEDDING).reshape(-1))
            self.left, self.enough = sum(one.wanted.input.visits for one in self.sums.values()), False
            return
        product = read_product(self.library, node)
        if self.squares is not None and self.squares.wants(node):
            self.squares.add(product)
        if product.name in self.sums:
            if self.held_rows is None:
                raise EngineError(f"{product.name}: expected tokens looked up in {_EMBEDDING} before, found none")
            self.sums[product.name].add(product, self.held_rows)
            self.left -= 1
            self.enough = self.stop and self.left == 0

    def _is_lookup(self, node: Tensor) -> bool:
        """Whether it is the micro-batch's tokens that are looked up in the embedding."""
        known = self.lookups.get(node.op)
        if known is None:
            known = self.library.functions.ggml_op_desc(ctypes.addressof(node)) == b"GET_ROWS"
            self.lookups[node.op] = known
        return known and weight_name(node.source(0)) == _EMBEDDING

    def _locate(self, tokens: NDArray[np.int32]) -> None:
        """Find the micro-batch's tokens in the windows: as many of each by turns, or one window after another."""
        sequences, length = self.windows.shape
        begin, end = self.done, self.done + len(tokens)
        self.done = end
        if begin % sequences == end % sequences == 0:
            each = slice(begin // sequences, end // sequences)
            if np.array_equal(tokens, self.windows[:, each].reshape(-1)):
                self.held_rows = np.repeat(self.held, len(tokens) // sequences)
                return
        if not np.array_equal(tokens, self.windows.reshape(-1)[begin:end]):
            raise EngineError(f"micro-batch at token {begin}: expected tokens of {sequences} windows, found others")
        self.held_rows = np.repeat(self.held, length)[begin:end]


class _Sums:
    """Of the matrices of a range."""

    def __init__(self, wanted: Range, held_tokens: int, sample: int, pool: ThreadPoolExecutor) -> None:
        self.wanted = wanted
        found, rows = wanted.input, held_tokens * wanted.input.rows
        kept = min(sample, rows)
        chosen = np.arange(kept) if found.routed else np.arange(kept) * rows // max(kept, 1)
        self.matrices = [_Matrix(wanted.blocks, chosen, pool) for _ in range(wanted.first, wanted.last)]

    def add(self, product: Product, held: NDArray[np.bool_]) -> None:
        """Add a product's input; `held`: of each token of the micro-batch, whether it is held out."""
        found = self.wanted.input
        if (product.matrices, product.cols) != (found.matrices, found.cols):
            sizes = product.matrices, product.cols
            expected = f"{found.matrices, found.cols} matrices and columns as before"
            raise EngineError(f"{product.name}: expected {expected}, found {sizes}")
        rows = _dense(product, held) if product.ids is None else _routed(product, product.ids, held)
        for matrix, values, out in rows:
            if self.wanted.first <= matrix < self.wanted.last:
                self.matrices[matrix - self.wanted.first].add(values, out)

    def seen(self) -> Seen:
        """Waits for all products; raises EngineError if an input was not finite."""
        for one in self.matrices:
            if not one.finish():
                name = self.wanted.input.name
                raise EngineError(f"the input of {name} is not finite: the model's weights overflow or are damaged")
        counts = np.array([one.count for one in self.matrices], dtype=np.int64)
        return Seen(counts, np.array([sum(map(len, one.kept)) for one in self.matrices], dtype=np.int64))

    def results(self) -> Iterator[Collected]:
        """The matrices, in turn; each is let go of."""
        for number, one in enumerate(self.matrices):
            cols = self.wanted.input.cols
            sample = np.concatenate([np.empty((0, cols), np.float32), *one.kept])
            with np.errstate(over="ignore"):  # who writes them checks
                sums = one.sums.astype(np.float32)
            one.release()
            yield Collected(self.wanted.input.name, self.wanted.first + number, sums, sample)


Rows = Iterator[tuple[int, Floats, NDArray[np.bool_]]]


def _dense(product: Product, held: NDArray[np.bool_]) -> Rows:
    """(matrix, rows [n, cols], which of them are held out) of a product without routes."""
    values = product.values
    which = np.array([[product.matrix(i3, i2) for i2 in range(values.shape[1])] for i3 in range(values.shape[0])])
    for matrix in range(product.matrices):
        planes = values if product.matrices == 1 else values[which == matrix][None]
        out = _spread(held, planes.shape[:-1], product.name)
        yield matrix, planes.reshape(-1, product.cols), out.reshape(-1)


def _spread(held: NDArray[np.bool_], shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """`held` of each token as of each row [i3, i2, i1]: the tokens are those axes that together are as many."""
    for axes in ((2,), (1, 2), (0, 1, 2), (0, 2), (1,), (0, 1), (0,)):
        sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        if np.prod(sizes) == len(held):
            return np.broadcast_to(held.reshape(sizes), shape)
    raise EngineError(f"{name}: expected rows of {len(held)} tokens, found {shape}")


def _routed(product: Product, ids: NDArray[np.int32], held: NDArray[np.bool_]) -> Rows:
    """The same of experts, in the order of tokens for each."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(product.matrices + 1))
    for expert in range(product.matrices):
        tokens, places = np.divmod(order[bounds[expert] : bounds[expert + 1]], ids.shape[1])
        if len(tokens):
            yield expert, product.values[tokens, places % product.values.shape[1]], held[tokens]


class _Matrix:
    """The sums of one matrix, the rows that wait for the next product, and the sample."""

    def __init__(self, blocks: Sequence[int], chosen: NDArray[np.int64], pool: ThreadPoolExecutor) -> None:
        self.strips, self.pool = tuple(strips(blocks)), pool
        self.sums = np.zeros(packed_size(blocks), dtype=np.float64)
        self.waiting = np.empty((PRODUCT_ROWS, sum(blocks)), dtype=np.float32)
        self.chosen, self.kept = chosen, list[Floats]()
        self.count = self.filled = self.passed = 0
        self.running: list[Future[None]] = []

    def add(self, rows: Floats, out: NDArray[np.bool_]) -> None:
        """Add rows [n, cols], those that are `out` to the sample if they are among the chosen ones."""
        if out.any():
            self._sample(rows[out])
            rows = rows[~out]
        self.count += len(rows)
        while len(rows):
            self._settle()
            fit = min(len(rows), PRODUCT_ROWS - self.filled)
            self.waiting[self.filled : self.filled + fit] = rows[:fit]
            self.filled, rows = self.filled + fit, rows[fit:]
            if self.filled == PRODUCT_ROWS:
                self._multiply()

    def finish(self) -> bool:
        """Add what still waits; tells whether all is finite: a product that is not shows in the diagonal."""
        self._settle()
        self._multiply()
        self._settle()
        return all(np.isfinite(self._diagonal(strip)).all() for strip in self.strips)

    def release(self) -> None:
        """Let go of the memory."""
        del self.sums, self.waiting, self.kept

    def _sample(self, rows: Floats) -> None:
        begin, self.passed = self.passed, self.passed + len(rows)
        chosen = self.chosen[(begin <= self.chosen) & (self.chosen < self.passed)]
        if len(chosen):
            self.kept.append(rows[chosen - begin])

    def _multiply(self) -> None:
        rows, self.filled = self.waiting[: self.filled], 0
        if len(rows):
            self.running = [self.pool.submit(self._add, rows, strip) for strip in self.strips]

    def _add(self, rows: Floats, strip: Strip) -> None:
        sums = self.sums[strip.start : strip.stop].reshape(strip.shape)
        sums += rows[:, strip.first : strip.last].T @ rows[:, strip.first : strip.end]

    def _settle(self) -> None:
        for future in self.running:
            future.result()
        self.running = []

    def _diagonal(self, strip: Strip) -> NDArray[np.float64]:
        rows, cols = strip.shape
        return self.sums[strip.start : strip.stop].reshape(rows, cols)[:, :rows].diagonal()
