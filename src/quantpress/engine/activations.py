"""Sums of squared activations, collected while llama.cpp evaluates: the raw material of an importance matrix.

llama.cpp's scheduler calls us for every node of its graph: first to ask whether we want it, then, once it is computed,
with its operands in reach. We want what llama-imatrix wants: products with a weight (`MUL_MAT`, at least 16 tokens, F32
input, a name that begins with `blk.`, or `output.weight` on request) and products with experts (`MUL_MAT_ID`), where
the rows go to the sums of the expert that they were routed to. On request also what llama-imatrix leaves out: the
product with a tied output, whose weight is named `token_embd.weight`, be it the embedding's struct or one of its own.
Tokens are looked up in an embedding (`GET_ROWS`), so there is no such product where the output is a separate weight.

Sums are float64: unlike float32 ones they do not stall over millions of tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from quantpress import _native
from quantpress.engine.messages import Tokens
from quantpress.engine.session import Session
from quantpress.engine.tensor import F32, I32, Library, Tensor, checked_library
from quantpress.errors import EngineError

__all__ = ["activations"]

_FEWEST_TOKENS = 16
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
    collector = _Collector(checked_library(), process_output, session.settings.threads)
    callback = llama.ggml_backend_sched_eval_callback(collector)
    done = sent = 0
    for windows in session.batches(chunks):
        for _ in session.forward(windows, callback=callback):
            if collector.error is not None:
                raise collector.error
        done += len(windows)
        if done - sent >= every or done == len(chunks):
            sent = done
            yield done, collector.take()


class _Collector:
    """The callback. An exception must not cross into C: it is kept in `error`, and nothing more is collected."""

    def __init__(self, library: Library, process_output: bool, threads: int) -> None:
        self.library, self.process_output, self.threads = library, process_output, threads
        self.sums: dict[str, Sums] = {}
        self.counts: dict[str, Counts] = {}
        self.error: Exception | None = None

    def __call__(self, address: int, ask: bool, _: Any) -> bool:
        try:
            node = Tensor.from_address(address)
            if ask:
                return self.error is None and self._wants(node)
            if self.error is None:
                self._collect(node)
        except Exception as error:
            self.error = error
        return not ask  # after an error: nothing more is wanted, but what runs goes on

    def take(self) -> dict[str, tuple[Sums, Counts]]:
        """What was collected since the last call."""
        found = {}
        for name, sums in self.sums.items():
            if not np.isfinite(sums).all():
                raise EngineError(f"the input of {name} is not finite: the model's weights overflow or are damaged")
            found[name] = (sums.reshape(len(self.counts[name]), -1), self.counts[name])
        self.sums, self.counts = {}, {}
        return found

    def _wants(self, node: Tensor) -> bool:
        if node.op == self.library.mul_mat_id:
            return True
        if node.op != self.library.mul_mat:
            return False
        inputs = node.source(1)
        if inputs.ne[1] < _FEWEST_TOKENS or inputs.type != F32:
            return False
        name = _weight_name(node.source(0))
        return name.startswith("blk.") or (self.process_output and name in _OUTPUTS)

    def _collect(self, node: Tensor) -> None:
        weight, inputs = node.source(0), node.source(1)
        name = _weight_name(weight)
        values = self._values(inputs, F32, np.float32, name)
        if node.op == self.library.mul_mat_id:
            self._add_routed(name, weight, values[0], self._values(node.source(2), I32, np.int32, name)[0, 0])
        else:
            self._add_dense(name, weight, values)

    def _add_dense(self, name: str, weight: Tensor, values: NDArray[np.float32]) -> None:
        """Add values [i3, i2, tokens, cols]; i3 and i2 choose the matrix, or are more tokens where there is one."""
        w2, w3 = weight.ne[2], weight.ne[3]
        sums, counts = self._entry(name, w2 * w3, values.shape[-1], 1)
        for i3, plane in enumerate(values):
            for i2, rows in enumerate(plane):
                matrix = (i3 % w3) * w2 + i2 % w2
                _native.add_squares(rows, sums[matrix : matrix + 1], threads=self.threads)
        counts += int(np.prod(values.shape[:-1])) // (w2 * w3)

    def _add_routed(self, name: str, weight: Tensor, values: NDArray[np.float32], ids: NDArray[np.int32]) -> None:
        """Add values [tokens, inputs, cols] by ids [tokens, experts used]; one input may serve all of them."""
        experts = weight.ne[2]
        if len(ids) != len(values) or (ids.size and not 0 <= ids.min() <= ids.max() < experts):
            raise EngineError(f"{name}: expected routes of {len(values)} tokens to {experts} experts, found others")
        sums, counts = self._entry(name, experts, values.shape[-1], experts)
        for place in range(ids.shape[1]):
            chosen = np.ascontiguousarray(ids[:, place])
            _native.add_squares(values[:, place % values.shape[1]], sums, chosen, threads=self.threads)
            counts += np.bincount(chosen, minlength=experts)

    def _entry(self, name: str, matrices: int, cols: int, counts: int) -> tuple[Sums, Counts]:
        if name not in self.sums:
            self.sums[name] = np.zeros((matrices, cols), dtype=np.float64)
            self.counts[name] = np.zeros(counts, dtype=np.int64)
        if self.sums[name].shape != (matrices, cols):
            found, expected = self.sums[name].shape, (matrices, cols)
            raise EngineError(f"{name}: expected {expected} matrices and columns as before, found {found}")
        if len(self.counts[name]) < counts:  # a dense product came first: every expert has seen its tokens
            self.counts[name] = np.repeat(self.counts[name], counts)
        return self.sums[name], self.counts[name]

    def _values(self, tensor: Tensor, type: int, dtype: type[Any], name: str) -> NDArray[Any]:
        """A tensor's values [ne3, ne2, ne1, ne0]: a view with its strides, of a copy if it is on a device."""
        item = np.dtype(dtype).itemsize
        if tensor.type != type or tensor.nb[0] != item:
            raise EngineError(f"{name}: expected operands of adjacent {dtype.__name__}, found type {tensor.type}")
        functions, address = self.library.functions, ctypes.addressof(tensor)
        size = functions.ggml_nbytes(address)
        if functions.ggml_backend_buffer_is_host(tensor.buffer):
            memory = (ctypes.c_char * size).from_address(tensor.data)
        else:
            memory = ctypes.create_string_buffer(size)
            functions.ggml_backend_tensor_get(address, memory, 0, size)
        flat = np.frombuffer(memory, dtype=dtype)
        shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)


def _weight_name(weight: Tensor) -> str:
    """The name without what the scheduler adds for a copy on a device: `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = weight.name.decode(errors="replace")
    return name.split("#")[1] if "#" in name else name
