"""ggml's tensor struct, laid out for ctypes and checked before it is trusted.

The evaluation callback hands us a `struct ggml_tensor *`, and ggml has no functions for most of its fields. The struct
is no stable interface, so `checked_library` makes tensors through ggml's own functions, with shapes, strides, names,
sources and buffers that we know, and compares every field that we read. A library that disagrees is refused.
`writable_library` does the same for the two fields that `Tensor.retype` writes.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from quantpress.engine.ggml import load
from quantpress.errors import EngineError
from quantpress.formats import TYPES, TensorType

__all__ = ["Library", "Tensor", "checked_library", "writable_library"]

F32, F16, I32 = 0, 1, 26
_DIMS, _PARAMS, _SOURCES, _NAME = 4, 16, 10, 64
_PRECISION = 10  # GGML_PREC_F32


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h up to its name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMS),  # values along each dimension
        ("nb", ctypes.c_size_t * _DIMS),  # bytes from one to the next
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * _PARAMS),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME),
    )

    def source(self, index: int) -> Tensor:
        """The tensor that is this one's operand `index`."""
        return Tensor.from_address(self.src[index])

    def retype(self, type: TensorType) -> None:
        """Make it a tensor of adjacent rows of another type, of the same shape; its data is left as it is."""
        self.type = type.id
        self.nb[0], self.nb[1] = type.bytes, type.row_bytes(self.ne[0])
        for dim in range(2, _DIMS):
            self.nb[dim] = self.nb[dim - 1] * self.ne[dim - 1]


class _InitParameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True, slots=True)
class Library:
    """libggml-base, whose tensor struct is as `Tensor` says, and its numbers of the two matrix products."""

    functions: ctypes.CDLL
    mul_mat: int
    mul_mat_id: int


@functools.cache
def checked_library() -> Library:
    """The library that llama.cpp uses; raises EngineError if its struct ggml_tensor is another than `Tensor`."""
    functions = load(_signatures())
    context = functions.ggml_init(_InitParameters(1 << 20, None, True))
    buffer = None
    try:
        probe = _Probe(functions, context)
        buffer = functions.ggml_backend_alloc_ctx_tensors_from_buft(context, functions.ggml_backend_cpu_buffer_type())
        for field, expected, found in probe.comparisons(buffer):
            if expected != found:
                raise _mismatch(field, expected, found)
        return Library(functions, probe.of(probe.dense).op, probe.of(probe.routed).op)
    finally:
        if buffer is not None:
            functions.ggml_backend_buffer_free(buffer)
        functions.ggml_free(context)


@functools.cache
def writable_library() -> Library:
    """`checked_library`, if `Tensor.retype` makes of a tensor what ggml makes anew in each type of the table.

    Raises EngineError as `checked_library`.
    """
    library = checked_library()
    context = library.functions.ggml_init(_InitParameters(1 << 20, None, True))
    try:
        for type in TYPES.values():
            for field, expected, found in _retyped(library.functions, context, type):
                if expected != found:
                    raise _mismatch(f"{field} of a tensor that became {type.name}", expected, found)
        return library
    finally:
        library.functions.ggml_free(context)


def _retyped(functions: ctypes.CDLL, context: int, type: TensorType) -> list[tuple[str, object, object]]:
    """(field, what ggml makes, what `retype` makes) for an F32 tensor, both empty, nameless and without data."""
    shape = (512, 5, 3, 2)
    fresh, changed = (functions.ggml_new_tensor_4d(context, id, *shape) for id in (type.id, F32))
    Tensor.from_address(changed).retype(type)
    expected, found = Tensor.from_address(fresh), Tensor.from_address(changed)
    return [
        ("ggml_nbytes", functions.ggml_nbytes(fresh), functions.ggml_nbytes(changed)),
        ("ggml_row_size", functions.ggml_row_size(type.id, shape[0]), found.nb[1]),
        ("struct", bytes(expected), bytes(found)),
    ]


def _mismatch(field: str, expected: object, found: object) -> EngineError:
    return EngineError(
        f"llama-cpp-python {version('llama_cpp_python')}: struct ggml_tensor: {field}: expected {expected}, "
        f"found {found}. Its layout has changed: tensors cannot be read. Install llama-cpp-python 0.3.36"
    )


def _signatures() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    pointer, int64, size, int_ = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
    return {
        "ggml_init": (pointer, (_InitParameters,)),
        "ggml_free": (None, (pointer,)),
        "ggml_new_tensor_4d": (pointer, (pointer, int_, int64, int64, int64, int64)),
        "ggml_row_size": (size, (int_, int64)),
        "ggml_set_name": (pointer, (pointer, ctypes.c_char_p)),
        "ggml_get_name": (pointer, (pointer,)),
        "ggml_get_data": (pointer, (pointer,)),
        "ggml_view_2d": (pointer, (pointer, pointer, int64, int64, size, size)),
        "ggml_mul_mat": (pointer, (pointer, pointer, pointer)),
        "ggml_mul_mat_set_prec": (None, (pointer, int_)),
        "ggml_mul_mat_id": (pointer, (pointer, pointer, pointer, pointer)),
        "ggml_op_desc": (ctypes.c_char_p, (pointer,)),
        "ggml_nbytes": (size, (pointer,)),
        "ggml_backend_cpu_buffer_type": (pointer, ()),
        "ggml_backend_alloc_ctx_tensors_from_buft": (pointer, (pointer, pointer)),
        "ggml_backend_buffer_free": (None, (pointer,)),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, (pointer,)),
        "ggml_backend_tensor_get": (None, (pointer, pointer, size, size)),
    }


class _Probe:
    """Tensors of which we know everything: the two products that the collector watches and what goes into them."""

    def __init__(self, functions: ctypes.CDLL, context: int) -> None:
        new, self.functions = functools.partial(functions.ggml_new_tensor_4d, context), functions
        self.experts = new(F16, 64, 5, 7, 1)
        self.weight = new(F16, 64, 5, 1, 1)
        self.inputs = new(F32, 64, 2, 3, 1)
        self.routes = new(I32, 6, 3, 1, 1)
        self.ids = functions.ggml_view_2d(context, self.routes, 2, 3, 24, 8)
        self.routed = functions.ggml_mul_mat_id(context, self.experts, self.inputs, self.ids)
        self.dense = functions.ggml_mul_mat(context, self.weight, self.inputs)
        functions.ggml_mul_mat_set_prec(self.dense, _PRECISION)
        functions.ggml_set_name(self.experts, b"blk.0.ffn_up_exps.weight")

    def of(self, address: int) -> Tensor:
        return Tensor.from_address(address)

    def comparisons(self, buffer: int) -> list[tuple[str, object, object]]:
        """(field, what it must be, what we read) of every field."""
        shapes = {
            self.experts: (F16, (64, 5, 7, 1), (2, 128, 640, 4480)),
            self.inputs: (F32, (64, 2, 3, 1), (4, 256, 512, 1536)),
            self.ids: (I32, (2, 3, 1, 1), (4, 24, 72, 72)),
            self.routed: (F32, (5, 2, 3, 1), (4, 20, 40, 120)),
        }
        found: list[tuple[str, object, object]] = []
        for address, expected in shapes.items():
            tensor = self.of(address)
            found.append(("type, ne, nb", expected, (tensor.type, tuple(tensor.ne), tuple(tensor.nb))))
            found.append(("buffer", buffer, tensor.buffer))
            found.append(("data", self.functions.ggml_get_data(address), tensor.data))
            found.append(("name", self.functions.ggml_get_name(address), address + Tensor.name.offset))
        return found + self._operations()

    def _operations(self) -> list[tuple[str, object, object]]:
        leaf, ids, routed, dense = map(self.of, (self.experts, self.ids, self.routed, self.dense))
        describe = self.functions.ggml_op_desc
        return [
            ("name", b"blk.0.ffn_up_exps.weight", leaf.name),
            ("src of MUL_MAT_ID", [self.experts, self.inputs, self.ids, None], list(routed.src[:4])),
            ("src of MUL_MAT", [self.weight, self.inputs, None], list(dense.src[:3])),
            ("op_params", _PRECISION, dense.op_params[0]),
            ("view_src, view_offs", (self.routes, 8), (ids.view_src, ids.view_offs)),
            ("op", (b"MUL_MAT", b"MUL_MAT_ID"), (describe(self.dense), describe(self.routed))),
            ("op of a leaf", 0, leaf.op),
            ("op: different and small", True, len({0, dense.op, routed.op} & set(range(1 << 10))) == 3),
        ]
