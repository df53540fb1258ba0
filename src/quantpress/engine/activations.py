"""Sums of squared activations, collected while llama.cpp evaluates: the raw material of an importance matrix.

We want what llama-imatrix wants: products (see products.py) with a weight whose name begins with `blk.`, with
`output.weight` on request, and with experts, where the rows go to the sums of the expert that they were routed to. On
request also what llama-imatrix leaves out: the product with a tied output, whose weight is named `token_embd.weight`,
be it the embedding's struct or one of its own. Tokens are looked up in an embedding (`GET_ROWS`), so there is no such
product where the output is a separate weight.

Sums are float64: unlike float32 ones they do not stall over millions of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quantpress import _native
from quantpress.engine.messages import Tokens
from quantpress.engine.products import Product, Watcher, is_product, weight_name
from quantpress.engine.session import Session
from quantpress.engine.tensor import Library, Tensor, checked_library
from quantpress.errors import EngineError

__all__ = ["activations", "collector", "wanted"]

_OUTPUTS = ("output.weight", "token_embd.weight")

Sums = NDArray[np.float64]
Counts = NDArray[np.int64]


def activations(
    session: Session, chunks: Tokens, every: int, process_output: bool
) -> Iterator[tuple[int, dict[str, tuple[Sums, Counts]]]]:
    """Evaluate int32 chunks [n, length] and sum the squared inputs of every weight.

    Yields (chunks done, {weight: (sums float64 [matrices, cols], counts int64 [matrices])}) every `every` chunks,
    rounded up to a batch, with the sums since the last item. `process_output`: also of the output, tied or not.
    Raises EngineError if an activation is not finite.
    """
    found = collector(session, process_output)
    done = sent = 0
    for windows in session.batches(chunks):
        found.evaluate(session, windows)
        done += len(windows)
        if done - sent >= every or done == len(chunks):
            sent = done
            yield done, found.take()


def wanted(name: str, process_output: bool) -> bool:
    """Whether we want what a weight of that name is multiplied with."""
    return name.startswith("blk.") or (process_output and name in _OUTPUTS)


def collector(session: Session, process_output: bool) -> _Collector:
    """What sums the squares, for a session's number of threads."""
    return _Collector(checked_library(), process_output, session.settings.threads)


class _Collector(Watcher):
    def __init__(self, library: Library, process_output: bool, threads: int) -> None:
        super().__init__(library)
        self.process_output, self.threads = process_output, threads
        self.sums: dict[str, Sums] = {}
        self.counts: dict[str, Counts] = {}

    def take(self) -> dict[str, tuple[Sums, Counts]]:
        """What was collected since the last call."""
        found = {}
        for name, sums in self.sums.items():
            if not np.isfinite(sums).all():
                raise EngineError(f"the input of {name} is not finite: the model's weights overflow or are damaged")
            found[name] = (sums.reshape(len(self.counts[name]), -1), self.counts[name])
        self.sums, self.counts = {}, {}
        return found

    def wants(self, node: Tensor) -> bool:
        if not is_product(self.library, node):
            return False
        if node.op == self.library.mul_mat_id:
            return True
        return wanted(weight_name(node.source(0)), self.process_output)

    def add(self, product: Product) -> None:
        if product.ids is None:
            self._add_dense(product)
        else:
            self._add_routed(product, product.ids)

    def _add_dense(self, product: Product) -> None:
        sums, counts = self._entry(product, 1)
        for i3, plane in enumerate(product.values):
            for i2, rows in enumerate(plane):
                matrix = product.matrix(i3, i2)
                _native.add_squares(rows, sums[matrix : matrix + 1], threads=self.threads)
        counts += int(np.prod(product.values.shape[:-1])) // product.matrices

    def _add_routed(self, product: Product, ids: NDArray[np.int32]) -> None:
        sums, counts = self._entry(product, product.matrices)
        for place in range(ids.shape[1]):
            chosen = np.ascontiguousarray(ids[:, place])
            inputs = product.values[:, place % product.values.shape[1]]
            _native.add_squares(inputs, sums, chosen, threads=self.threads)
            counts += np.bincount(chosen, minlength=product.matrices)

    def _entry(self, product: Product, counts: int) -> tuple[Sums, Counts]:
        name, shape = product.name, (product.matrices, product.cols)
        if name not in self.sums:
            self.sums[name] = np.zeros(shape, dtype=np.float64)
            self.counts[name] = np.zeros(counts, dtype=np.int64)
        if self.sums[name].shape != shape:
            found = self.sums[name].shape
            raise EngineError(f"{name}: expected {shape} matrices and columns as before, found {found}")
        if len(self.counts[name]) < counts:  # a dense product came first: every expert has seen its tokens
            self.counts[name] = np.repeat(self.counts[name], counts)
        return self.sums[name], self.counts[name]
