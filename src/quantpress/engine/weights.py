"""Where a loaded model's weights are: their structs, found in a graph, and the memory of their data.

llama.cpp has no function that gives them. A forward pass of two tokens shows the evaluation callback every node, and
the weights are among the nodes' sources and what those are views of. The experts of a mixture are one tensor, which
every token uses. A tied output is the embedding itself or, in some architectures (Gemma 4) and on devices, a second
struct of its name with a copy of the data.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from quantpress.arrays import Bytes
from quantpress.engine.session import Session
from quantpress.engine.tensor import Library, Tensor
from quantpress.gguf import TensorSpec

__all__ = ["memory", "obstacle", "weight_structs"]

_TOKENS = np.zeros((1, 2), np.int32)
_DIMS = 4


def weight_structs(session: Session, names: Collection[str]) -> dict[str, list[Tensor]]:
    """The structs of each of these weights, none of one that the graph does not use; raises EngineError."""
    finder = _Finder(names)
    callback = llama.ggml_backend_sched_eval_callback(finder)
    for _ in session.forward(_TOKENS, callback=callback):
        pass  # its logits are of no interest
    session.close()  # the callback dies with this function
    if finder.error is not None:
        raise finder.error
    return {name: [Tensor.from_address(one) for one in sorted(found)] for name, found in finder.addresses.items()}


class _Finder:
    """The callback. It wants no node's values; an exception must not cross into C, and is kept in `error`."""

    def __init__(self, names: Collection[str]) -> None:
        self.addresses: dict[str, set[int]] = {name: set() for name in names}
        self.error: Exception | None = None

    def __call__(self, address: int, ask: bool, _: Any) -> bool:
        try:
            for one in _leaves(Tensor.from_address(address)):
                found = self.addresses.get(one.name.decode(errors="replace"))
                if found is not None:
                    found.add(ctypes.addressof(one))
        except Exception as error:
            self.error = error
        return not ask  # "no" to the question; in the data phase that would cancel the graph


def _leaves(node: Tensor) -> Iterator[Tensor]:
    """The sources of a node that are neither computed nor views, and what its sources are views of."""
    for address in node.src:
        while address:
            tensor = Tensor.from_address(address)
            address = tensor.view_src
            if not address and tensor.op == 0:
                yield tensor


def obstacle(library: Library, tensor: TensorSpec, structs: Sequence[Tensor]) -> str | None:
    """Why a weight cannot be written, and what to do about it; None if it can: it is as the file has it."""
    type, rest = tensor.type, f"leave it in {tensor.type.name}"
    expected = Tensor()
    expected.ne[:] = [*tensor.shape, 1, 1, 1][:_DIMS]
    expected.retype(type)
    for struct in structs:
        if not struct.buffer or not library.functions.ggml_backend_buffer_is_host(struct.buffer):
            return f"it is not in the host's memory: open the engine with gpu_layers=0, or {rest}"
        if (wanted := _layout(expected)) != (found := _layout(struct)):
            return f"expected type, shape and strides {wanted}, as in the file, found {found} in llama.cpp: {rest}"
    return None


def _layout(struct: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return struct.type, tuple(struct.ne), tuple(struct.nb)


def memory(struct: Tensor, offset: int, size: int) -> Bytes:
    """`size` bytes of a weight's data from `offset` on, uint8: a view that can be written."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(struct.data + offset))
