"""Encoding with feedback: what an encoder makes of the second moments of a layer's inputs.

The error that one weight makes is paid back by the weights after it (GPTQ, Frantar et al. 2022; LDLQ, Chee et al.
2023), under scales that are looked for on the weights as they then are, in every type that has codes;
native/compensate.hpp says how. Here is what the core is given:

- the order of the columns: blocks by the sum of their inputs' squares, the largest first, and so within a block; codes
  of several weights stay together. What comes late cannot be paid back, so it had better be small.
- the factor: H + damping × mean(diag H) = U D Uᵀ, U upper with a unit diagonal (factor.py).
- what errors weigh when scales are looked for: √(D diag H). D alone counts on every error being paid back, the diagonal
  on none; the mean of the two was better than either (by 0 to 2 % of the error).

The damping is chosen for each matrix and type by the error on inputs that the moments have not seen, on some of the
rows, and so is whether it is worth it: where plain encoding does as well, the matrix is encoded plainly. By the same
inputs and rows it is seen how much smaller outputs become below four bits (by 0 to 5 %), and weights are made larger.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from quantpress import _native, codec
from quantpress.arrays import Bytes, Floats
from quantpress.blas import one_thread
from quantpress.errors import ImatrixError
from quantpress.factor import Factor, code_width, factorize, knows
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import GGUF, Metadata, Tensor, Value
from quantpress.imatrix import Imatrix
from quantpress.moments import InputMoments, Moments
from quantpress.plan import Plan
from quantpress.tiles import RowReader

__all__ = [
    "WITHOUT",
    "Choice",
    "Choices",
    "Compensation",
    "Compensator",
    "compensated",
    "compensation_keys",
    "encode",
]

DAMPINGS = (1.0, 0.3, 0.1, 0.03, 0.01)  # of the mean diagonal
_USUAL = 2  # the first that is tried where tokens are no fewer than
_TOKENS = 2  # times the columns
_WORTH = 0.98  # of the error, for a smaller one to be taken
ROUNDS = 3
_UNJUDGED = 0.03  # without inputs to choose by
_ROWS = 64  # of a matrix, to choose by
_FEW_BITS = 4  # rows of fewer lose size that counts
_CACHE_BYTES = 1 << 30
_SUSPICIOUS = 20  # times 4^-bits: more than this of a row's weighted square is no rounding error (plain: 2 to 3 times)
_F32 = TYPES["F32"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Choice:
    """How a matrix is encoded to a type.

    `damping` None: plainly. `ratio`: its error on held-out inputs relative to plain encoding, None where there were no
    such inputs, or no moments. `factor`: what weights are multiplied by first, so that outputs get back their size.
    """

    damping: float | None
    ratio: float | None
    factor: float = 1.0


WITHOUT = Choice(None, None)  # moments


Choices = dict[tuple[str, int, str], Choice]  # by tensor, matrix and type


def compensated(choices: Choices, plan: Plan) -> dict[str, Any]:
    """What a release says of a plan's file: matrices that were `compensated`, `of` how many, tensors left `plain`.

    Empty where none could be.
    """
    found = {key: one for key, one in choices.items() if plan.tensors[key[0]] == key[2] and key[0] not in plan.plain}
    plain = [name for (name, _, _), one in found.items() if one.damping is None]
    asked = [name for name in plan.plain if knows(plan.types[name])]
    if not found and not asked:
        return {}
    return {"matrices": len(found) - len(plain), "of": len(found), "plain": sorted({*plain, *asked})}


def compensation_keys(dataset: str | None, chunks: int) -> Metadata:
    """What a file says of the moments that it was encoded with: the name of their text, and chunks of it."""
    keys = {"quantize.compensated.chunks_count": Value.u32(chunks)}
    if dataset:
        keys["quantize.compensated.dataset"] = Value.string(PurePath(dataset).name)
    return keys


def encode(
    x: Floats, type: TensorType, factors: tuple[Factor, ...], *, rounds: int = ROUNDS, threads: int = 1
) -> Bytes:
    """Encode float32 [rows, cols] with feedback within each of the factors' consecutive columns.

    Returns uint8 [rows, bytes of a row], the same for any number of threads and however the rows are cut.
    """
    parts, first = [], 0
    for factor in factors:
        cols = len(factor.order)
        out = np.empty((len(x), type.row_bytes(cols)), np.uint8)
        _native.compensate(
            np.ascontiguousarray(x[:, first : first + cols]),
            type.name,
            out,
            factor.panels,
            factor.diagonal,
            factor.importance,
            factor.order,
            rounds=rounds,
            threads=threads,
        )
        parts.append(out)
        first += cols
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class Compensation:
    """`with Compensation(model, moments, imatrix) as found: found.of(tensor, matrix)`: any thread may ask.

    What was chosen is in `choices`, by (tensor, matrix, type). The imatrix is what plain encoding is given.
    """

    def __init__(self, model: GGUF, moments: Moments, imatrix: Imatrix | None) -> None:
        self.model, self.moments, self.imatrix = model, moments, imatrix
        self.choices: Choices = {}
        self._reader, self._stack = RowReader(model), ExitStack()
        self._factors = _Cache(_CACHE_BYTES)
        self._inputs = _Cache(_CACHE_BYTES)
        self._choosing = _Locks()

    def __enter__(self) -> Compensation:
        with ExitStack() as stack:
            stack.enter_context(one_thread())  # threads are the caller's; and so sums have one order
            stack.enter_context(self._reader)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def of(self, tensor: Tensor, matrix: int) -> Compensator | None:
        """Of a tensor's matrix (an expert, or 0); None without moments of it."""
        if not self.moments.covers(tensor):
            return None
        entry = self.moments.entries[self.moments.input_of(tensor.name)]
        return Compensator(self, tensor, matrix) if entry.counts[matrix] else None

    def inputs(self, tensor: Tensor, matrix: int) -> InputMoments:
        """The moments of a matrix, kept for the next that shares them."""
        key = (self.moments.input_of(tensor.name), matrix)
        return self._inputs.get(key, partial(self._read, tensor, matrix))

    def _read(self, tensor: Tensor, matrix: int) -> tuple[InputMoments, int]:
        found = self.moments.of(tensor, matrix)
        if found is None:
            raise KeyError(tensor.name)  # of a caller that has not asked `of`
        return found, sum(block.nbytes for block in found.blocks)

    def dampings(self, tensor: Tensor, matrix: int) -> tuple[float, ...]:
        """What to try; larger ones too where there are few tokens."""
        entry = self.moments.entries[self.moments.input_of(tensor.name)]
        return DAMPINGS if entry.counts[matrix] < _TOKENS * max(entry.blocks) else DAMPINGS[_USUAL:]

    def factors(self, tensor: Tensor, matrix: int, type: TensorType, damping: float) -> tuple[Factor, ...]:
        """Of each diagonal block that the moments have."""
        key = (self.moments.input_of(tensor.name), matrix, type.block, code_width(type) == 1, damping)
        return self._factors.get(key, partial(self._factorized, tensor, matrix, type, damping))

    def _factorized(
        self, tensor: Tensor, matrix: int, type: TensorType, damping: float
    ) -> tuple[tuple[Factor, ...], int]:
        try:
            found = tuple(factorize(block, type, damping) for block in self.inputs(tensor, matrix).blocks)
        except np.linalg.LinAlgError as error:
            where, expected = f"tensor {self.moments.input_of(tensor.name)}, matrix {matrix}", "sums of x xᵀ"
            found_, hint = "a matrix that is none: not positive semidefinite", "The file is damaged: collect it again"
            raise ImatrixError(self.moments.path, where, expected=expected, found=found_, hint=hint) from error
        return found, sum(factor.nbytes for factor in found)

    def choice(self, tensor: Tensor, matrix: int, type: TensorType) -> Choice:
        """The best damping, or plain encoding."""
        key = (tensor.name, matrix, type.name)
        with self._choosing.of(key):
            if key not in self.choices:
                self.choices[key] = self._chosen(tensor, matrix, type)
            return self.choices[key]

    def _chosen(self, tensor: Tensor, matrix: int, type: TensorType) -> Choice:
        sample = self.inputs(tensor, matrix).sample
        if not len(sample):
            return Choice(_UNJUDGED, None)
        rows = tensor.rows // tensor.matrices
        places = matrix * rows + np.unique(np.linspace(0, rows - 1, _ROWS).astype(int))
        x = np.concatenate([self._row(tensor, int(row)) for row in places])
        tried: dict[float, Floats] = {}

        def missed(data: Bytes) -> Floats:
            errors = x - codec.decode(data, type.name, tensor.cols, threads=1)
            outputs: Floats = errors @ sample.T
            return outputs

        def error(damping: float) -> float:
            tried[damping] = missed(encode(x, type, self.factors(tensor, matrix, type, damping)))
            return _squared(tried[damping])

        best, found = descend(self.dampings(tensor, matrix), error)
        least = _squared(missed(self.plain(x, tensor, matrix, type)))
        ratio = found / least if least else 1.0
        if ratio >= 1:
            return Choice(None, ratio)
        lossy = type.bits_per_weight < _FEW_BITS
        return Choice(best, ratio, _restoring(x @ sample.T, tried[best]) if lossy else 1.0)

    def _row(self, tensor: Tensor, row: int) -> Floats:
        data = self._reader.read(tensor, row, row + 1)
        codec.encode_rows(data, tensor.type, tensor.cols, [], tensor=tensor.name, row=row)  # looks for NaN
        return codec.decode(data, tensor.type.name, tensor.cols, threads=1)

    def plain(self, x: Floats, tensor: Tensor, matrix: int, type: TensorType) -> Bytes:
        """Rows of a matrix, float32 [rows, cols], encoded without feedback."""
        importance = None if self.imatrix is None else self.imatrix.of(tensor)
        columns = None if importance is None else importance[matrix]
        return codec.encode_rows(x.view(np.uint8), _F32, tensor.cols, [type], columns, tensor=tensor.name).data[0]


@dataclass(frozen=True, slots=True)
class Compensator:
    """Encodes rows of one matrix of a tensor."""

    of: Compensation
    tensor: Tensor
    matrix: int

    def encode(self, x: Floats, type: TensorType) -> Bytes | None:
        """float32 [rows, cols] to uint8 [rows, bytes of a row]; None where plain encoding is as good."""
        choice = self.of.choice(self.tensor, self.matrix, type)
        if choice.damping is None:
            return None
        factors = self.of.factors(self.tensor, self.matrix, type, choice.damping)
        data = encode(x * np.float32(choice.factor), type, factors)  # the codes of x, under scales that much larger
        self._mend(x, type, data)
        return data

    def _mend(self, x: Floats, type: TensorType, data: Bytes) -> None:
        """Encode those rows plainly that feedback has made worse.

        Where a block cannot hold what it is asked to pay back, as after a run of zeros, errors can feed on each other.
        """
        squares = np.concatenate([block.diagonal() for block in self.of.inputs(self.tensor, self.matrix).blocks])
        errors = x - codec.decode(data, type.name, x.shape[1], threads=1)
        limit = _SUSPICIOUS * 4.0**-type.bits_per_weight
        rows = np.flatnonzero(np.square(errors) @ squares > limit * (np.square(x) @ squares))
        if len(rows):
            plain = self.of.plain(x[rows], self.tensor, self.matrix, type)
            others = x[rows] - codec.decode(plain, type.name, x.shape[1], threads=1)
            worse = self.cost(errors[rows]) > self.cost(others)
            data[rows[worse]] = plain[worse]

    def cost(self, errors: Floats) -> NDArray[np.float64]:
        """The mean square of what errors, float32 [rows, cols], do to the layer's output: e H eᵀ, float64 [rows]."""
        found, first = np.zeros(len(errors)), 0
        for block in self.of.inputs(self.tensor, self.matrix).blocks:
            part = errors[:, first : first + len(block)]
            found += np.einsum("ij,ij->i", part @ block, part, dtype=np.float64)
            first += len(block)
        return found


def descend(dampings: Sequence[float], error: Callable[[float], float]) -> tuple[float, float]:
    """A damping and its error: from the largest downwards, as long as a smaller one is worth it.

    On the text at hand a smaller one is often better by a percent; on other texts it was worse by ten (Q2_K, on code).
    """
    best, least = dampings[0], error(dampings[0])
    for damping in dampings[1:]:
        found = error(damping)
        if found > _WORTH * least:
            break
        best, least = damping, found
    return best, least


def _restoring(wanted: Floats, missed: Floats) -> float:
    """The factor that gives outputs, float32 [rows, inputs], three quarters of the size back that they have lost.

    As for plain encoding (native/kernels/size.hpp), but along the outputs; 1 where so few inputs cannot tell.
    """
    squares, products = (np.multiply(wanted, one, dtype=np.float64).sum(axis=0) for one in (wanted, missed))
    total = squares.sum()
    lost = products.sum() / total if total else 0.0
    noise = np.linalg.norm(products - lost * squares) / total if total else 0.0
    return float((1 - lost) ** -0.75) if 2 * noise < lost < 0.75 else 1.0


def _squared(outputs: Floats) -> float:
    return float(np.square(outputs, dtype=np.float64).sum())


class _Locks:
    """A lock for each key."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, threading.Lock] = {}

    def of(self, key: Hashable) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())


class _Cache:
    """Results by key, made once; up to a limit of bytes those used longest ago go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._guard, self._making = threading.Lock(), _Locks()

    def get(self, key: Hashable, make: Callable[[], tuple[Result, int]]) -> Result:
        """What `make` gave with its bytes, now or before."""
        with self._making.of(key):
            with self._guard:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    found: Result = self._entries[key][0]
                    return found
            made = make()
            with self._guard:
                self._entries[key] = made
                while len(self._entries) > 1 and sum(size for _, size in self._entries.values()) > self._limit:
                    self._entries.popitem(last=False)
            return made[0]
