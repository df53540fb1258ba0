"""The input of a weight as it is, row by row, while llama.cpp evaluates.

No node behind it need be computed, so the first layers of a model cost little.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quantpress.engine.messages import Tokens
from quantpress.engine.products import Product, Watcher, is_product, weight_name
from quantpress.engine.session import Session
from quantpress.engine.tensor import Library, Tensor, checked_library
from quantpress.errors import EngineError

__all__ = ["rows"]

Rows = NDArray[np.float32]


def rows(session: Session, chunks: Tokens, name: str, stop: bool) -> Iterator[Rows]:
    """Evaluate int32 chunks [n, length], of at most a micro-batch each, one after another.

    With `stop` no further than that: for models without experts, see `moments.moments`.
    Yields the input of a weight, float32 [rows, cols], of each chunk. The weight is one matrix, met once an evaluation.
    Raises EngineError if it is not met, or the input is not finite.
    """
    watcher = _Rows(checked_library(), name, stop)
    for chunk in chunks:
        yield watcher.of(session, chunk[None])


class _Rows(Watcher):
    def __init__(self, library: Library, name: str, stop: bool) -> None:
        super().__init__(library)
        self.name, self.stop = name, stop
        self.found: Rows | None = None

    def of(self, session: Session, window: Tokens) -> Rows:
        self.found, self.enough = None, False
        self.evaluate(session, window)
        if self.found is None:
            raise EngineError(f"{self.name}: expected a product with its input, found none in the graph")
        return self.found

    def wants(self, node: Tensor) -> bool:
        return is_product(self.library, node) and weight_name(node.source(0)) == self.name

    def add(self, product: Product) -> None:
        self.found, self.enough = np.array(product.values.reshape(-1, product.cols)), self.stop
        if not np.isfinite(self.found).all():
            raise EngineError(f"the input of {self.name} is not finite: the model's weights overflow or are damaged")
