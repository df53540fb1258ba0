"""ggml's own codec, called in this process: encode, decode and validate rows of any tensor type.

llama-cpp-python installs `libggml-base` beside `libllama`. Only that small library is loaded here, by ctypes, which
releases the GIL during a call: threads encode in parallel. It is found without importing `llama_cpp`, which would load
the whole of llama.cpp, and that belongs in a child process. Nothing is loaded before the first call, and the grids of
the IQ types are made on their first use, under the library's own lock.

ggml asserts: a wrong argument would abort this process. Every array is checked here first, and the library's block
sizes are compared with `formats.TYPES` when it is loaded: one that disagrees is refused rather than trusted.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpress.errors import EngineError, PlanError
from quantpress.formats import TYPES, TensorType

__all__ = ["dequantize", "library_path", "load", "quantize", "requires_importance", "valid"]

_NAMES = {"win32": ("ggml-base.dll", "libggml-base.dll"), "darwin": ("libggml-base.dylib", "libggml-base.so")}


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved_block", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


def library_path() -> Path:
    """Where llama-cpp-python keeps libggml-base (LLAMA_CPP_LIB_PATH overrides, as it does there).

    Raises EngineError if llama-cpp-python is not installed or holds no such library.
    """
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    spec = find_spec("llama_cpp")
    if override is None and (spec is None or spec.origin is None):
        raise EngineError("llama-cpp-python is not installed: pip install 'llama-cpp-python>=0.3.36'")
    folder = Path(override) if override is not None else Path(str(spec and spec.origin)).parent / "lib"
    names = _NAMES.get(sys.platform, ("libggml-base.so",))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise EngineError(f"{folder}: no {' or '.join(names)}: reinstall llama-cpp-python 0.3.36 or later")


def load(signatures: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> ctypes.CDLL:
    """libggml-base with functions declared as name: (result type, argument types).

    Raises EngineError if it does not load, or has no such function.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:  # AttributeError: a function that we need is not in it
        raise EngineError(f"{path}: cannot be used: {error}. Reinstall llama-cpp-python 0.3.36 or later") from error
    return library


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, int64, size, int_ = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
    signatures = {
        "ggml_quantize_chunk": (size, (int_, pointer, pointer, int64, int64, int64, pointer)),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, (int_,)),
        "ggml_validate_row_data": (ctypes.c_bool, (int_, pointer, size)),
        "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), (int_,)),
        "ggml_row_size": (size, (int_, int64)),
    }
    library = load(signatures)
    for type in TYPES.values():
        _check_agreement(library, type)
    return library


def _check_agreement(library: ctypes.CDLL, type: TensorType) -> None:
    traits = library.ggml_get_type_traits(type.id).contents
    found = ((traits.type_name or b"").decode().upper(), traits.block, traits.bytes, traits.is_quantized)
    expected = (type.name, type.block, type.bytes, type.quantized)
    if found != expected or library.ggml_row_size(type.id, 8 * type.block) != 8 * type.bytes:
        sides = f"expected (name, block, bytes, quantized) {expected}, found {found}"
        raise EngineError(f"{library._name}: type {type.id}: {sides}")


def requires_importance(type: TensorType) -> bool:
    """Whether ggml cannot encode the type at all without importance; llama.cpp asks for it for more types."""
    return bool(_library().ggml_quantize_requires_imatrix(type.id))


def quantize(x: NDArray[np.float32], type: TensorType, importance: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Encodes rows independently of each other, by `ggml_quantize_chunk`.

    Args:
        x: float32 [rows, cols], finite; `cols` a multiple of the type's block.
        type: the type to encode to, a float type included.
        importance: float32 [cols], finite, at least 0: the weight of each column's squared error; None: all alike.

    Returns:
        uint8 [rows, bytes of a row].

    Raises:
        PlanError: the type cannot be encoded, does not divide the row, or needs importance and gets none.
    """
    if not type.encodable:
        raise PlanError(None, "encoding", expected="a type that can be encoded", found=type.name)
    if importance is None and requires_importance(type):
        raise PlanError(None, f"encoding as {type.name}", expected="an importance matrix", found="none")
    rows, cols = x.shape
    encoded = np.empty((rows, type.row_bytes(cols)), np.uint8)
    source = _float32(x)
    weights = None if importance is None else _float32(importance)
    if weights is not None and weights.shape != (cols,):
        raise PlanError(None, "importance", expected=f"{cols} columns", found=f"shape {weights.shape}")
    at = None if weights is None else weights.ctypes.data
    _library().ggml_quantize_chunk(type.id, source.ctypes.data, encoded.ctypes.data, 0, rows, cols, at)
    return encoded


def dequantize(data: NDArray[np.uint8], type: TensorType, cols: int) -> NDArray[np.float32]:
    """Decodes rows of a block type, uint8 [rows, bytes of a row], to float32 [rows, cols]; PlanError for others."""
    if not type.quantized or data.shape[1:] != (type.row_bytes(cols),):
        found = f"{type.name}, shape {data.shape}"
        raise PlanError(None, "decoding", expected=f"rows of {cols} weights of a block type", found=found)
    source = np.ascontiguousarray(data)
    decoded = np.empty((data.shape[0], cols), np.float32)
    traits = _library().ggml_get_type_traits(type.id).contents
    traits.to_float(source.ctypes.data, decoded.ctypes.data, decoded.size)
    return decoded


def valid(data: NDArray[np.uint8], type: TensorType) -> bool:
    """Whether no value and no scale of the encoded rows is NaN or infinite, by `ggml_validate_row_data`."""
    source = np.ascontiguousarray(data)
    return bool(_library().ggml_validate_row_data(type.id, source.ctypes.data, source.nbytes))


def _float32(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.require(array, np.float32, ["C", "A"])
