"""The products with weights of a graph, seen while llama.cpp evaluates it.

llama.cpp's scheduler calls us for every node of its graph: first to ask whether we want it, then, once it is computed,
with its operands in reach. A product with a weight is a `MUL_MAT` of at least 16 tokens with an F32 input, and one with
experts is a `MUL_MAT_ID`, whose third operand says which experts each token was routed to.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from quantpress.engine.messages import Tokens
from quantpress.engine.session import Session
from quantpress.engine.tensor import F32, I32, Library, Tensor
from quantpress.errors import EngineError

__all__ = ["Product", "Watcher", "is_product", "read_product", "values_of", "weight_name"]

_FEWEST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Product:
    """A product's weight and its input.

    Without `ids`, `values` are float32 [i3, i2, tokens, cols]: i3 and i2 choose one of the weight's `shape` [w3, w2]
    matrices, or are more tokens where it has one. With `ids` int32 [tokens, experts used] they are [tokens, inputs,
    cols]: one input may serve all the experts of a token, and `shape` is [1, experts].
    """

    name: str
    shape: tuple[int, int]
    values: NDArray[np.float32]
    ids: NDArray[np.int32] | None

    @property
    def matrices(self) -> int:
        """Matrices of the weight."""
        return self.shape[0] * self.shape[1]

    @property
    def cols(self) -> int:
        """Columns of each of them."""
        return int(self.values.shape[-1])

    def matrix(self, i3: int, i2: int) -> int:
        """Which one a plane of the values is multiplied with; without `ids`."""
        return (i3 % self.shape[0]) * self.shape[1] + i2 % self.shape[1]


class Watcher:
    """The callback. An exception must not cross into C: it is kept in `error`, and nothing more is collected.

    Set `enough`, while a node is collected, if nothing that follows in the evaluation needs to be computed.
    """

    def __init__(self, library: Library) -> None:
        self.library, self.enough = library, False
        self._latest: object = None
        self.error: Exception | None = None
        self._callback = llama.ggml_backend_sched_eval_callback(self)  # one: a session's context is made for it

    def __call__(self, address: int, ask: bool, _: Any) -> bool:
        """See ggml_backend_sched_eval_callback."""
        try:
            node = Tensor.from_address(address)
            if self.error is not None or (ask and not self.wants(node)):
                return not ask
            operands = _operands(node)
            if ask and operands != self._latest:
                return True
            self._latest = operands
            self.collect(node)  # at once if the product before had the same input: llama.cpp need not stop for it
        except Exception as error:
            self.error = error
        return not ask and not self.enough  # after an error: nothing more is wanted, but what runs goes on

    def evaluate(self, session: Session, windows: Tokens) -> None:
        """Decode int32 windows [sequences, length] under our eyes; raises what was kept in `error`."""
        self._latest = None  # an input may well lie where that of the evaluation before lay
        for _ in session.forward(windows, callback=self._callback):
            if self.error is not None:
                raise self.error

    def wants(self, node: Tensor) -> bool:
        """Whether `collect` shall see this node once it is computed."""
        raise NotImplementedError

    def collect(self, node: Tensor) -> None:
        """Look at a computed node."""
        self.add(read_product(self.library, node))

    def add(self, product: Product) -> None:
        """Take a product's input in."""
        raise NotImplementedError


def _operands(node: Tensor) -> object:
    """What tells the input of a product from all others of this evaluation and of the one before."""
    source = node.source(1)
    return node.src[1], node.src[2], source.name, source.data


def is_product(library: Library, node: Tensor) -> bool:
    """Whether a node is a product that is worth a look, whatever it is called."""
    if node.op == library.mul_mat_id:
        return True
    if node.op != library.mul_mat:
        return False
    inputs = node.source(1)
    return bool(inputs.ne[1] >= _FEWEST_TOKENS and inputs.type == F32)


def read_product(library: Library, node: Tensor) -> Product:
    """A computed product's operands, valid until the callback returns; raises EngineError for odd ones."""
    weight, inputs = node.source(0), node.source(1)
    name = weight_name(weight)
    values = values_of(library, inputs, F32, np.float32, name)
    if node.op != library.mul_mat_id:
        return Product(name, (weight.ne[3], weight.ne[2]), values, None)
    values, ids = values[0], values_of(library, node.source(2), I32, np.int32, name)[0, 0]
    experts = weight.ne[2]
    if len(ids) != len(values) or (ids.size and not 0 <= ids.min() <= ids.max() < experts):
        raise EngineError(f"{name}: expected routes of {len(values)} tokens to {experts} experts, found others")
    return Product(name, (1, experts), values, ids)


def values_of(library: Library, tensor: Tensor, type: int, dtype: type[Any], name: str) -> NDArray[Any]:
    """A tensor's values [ne3, ne2, ne1, ne0]: a view with its strides, of a copy if it is on a device."""
    item = np.dtype(dtype).itemsize
    if tensor.type != type or tensor.nb[0] != item:
        raise EngineError(f"{name}: expected operands of adjacent {dtype.__name__}, found type {tensor.type}")
    functions, address = library.functions, ctypes.addressof(tensor)
    size = functions.ggml_nbytes(address)
    if functions.ggml_backend_buffer_is_host(tensor.buffer):
        memory = (ctypes.c_char * size).from_address(tensor.data)
    else:
        memory = ctypes.create_string_buffer(size)
        functions.ggml_backend_tensor_get(address, memory, 0, size)
    flat = np.frombuffer(memory, dtype=dtype)
    shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
    return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def weight_name(weight: Tensor) -> str:
    """The name without what the scheduler adds for a copy on a device: `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = weight.name.decode(errors="replace")
    return name.split("#")[1] if "#" in name else name
