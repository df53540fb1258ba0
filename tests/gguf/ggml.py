"""The oracle: what ggml's own parser, in the library that llama-cpp-python installs, sees in a file.

It is given files that it should accept; hostile ones are not for a parser in this process.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

STRING, ARRAY = 8, 9
FORMATS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?", 10: "u8", 11: "i8", 12: "f8"}
POINTER, INDEX = ctypes.c_void_p, ctypes.c_int64


@dataclass
class Seen:
    """Keys as (type, item type or None, raw bytes or list of raw texts), tensors as (type, shape, offset, bytes)."""

    version: int
    alignment: int
    metadata: dict[bytes, tuple[int, int | None, Any]] = field(default_factory=dict)
    tensors: dict[str, tuple[int, tuple[int, ...], int, int]] = field(default_factory=dict)


class Parameters(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", POINTER))


@cache
def library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")  # found, not imported: that would load the whole of llama.cpp
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    (path,) = [path for path in folder.glob("libggml-base.*") if path.suffix in (".so", ".dylib")]
    return ctypes.CDLL(str(path))


def call(name: str, result: Any, kinds: tuple[Any, ...], *values: Any) -> Any:
    function = getattr(library(), f"gguf_{name}")
    function.restype, function.argtypes = result, kinds
    return function(*values)


def read(path: Path) -> Seen:
    context = call("init_from_file", POINTER, (ctypes.c_char_p, Parameters), bytes(path), Parameters(True, None))
    assert context, f"ggml refuses {path}"
    try:
        return _seen(context)
    finally:
        call("free", None, (POINTER,), context)


def _seen(context: int) -> Seen:
    def of_file(name: str, result: Any) -> Any:
        return call(name, result, (POINTER,), context)

    def of_item(name: str, result: Any, index: int) -> Any:
        return call(name, result, (POINTER, INDEX), context, index)

    seen = Seen(of_file("get_version", ctypes.c_uint32), of_file("get_alignment", ctypes.c_size_t))
    for index in range(of_file("get_n_kv", INDEX)):
        seen.metadata[of_item("get_key", ctypes.c_char_p, index)] = _value(context, index)
    start = of_file("get_data_offset", ctypes.c_size_t)
    for index in range(of_file("get_n_tensors", INDEX)):
        shape = tuple(of_item("get_tensor_ne", ctypes.POINTER(INDEX), index)[:4])
        kind = of_item("get_tensor_type", ctypes.c_int, index)
        offset = start + of_item("get_tensor_offset", ctypes.c_size_t, index)
        name = of_item("get_tensor_name", ctypes.c_char_p, index).decode()
        seen.tensors[name] = (kind, shape, offset, of_item("get_tensor_size", ctypes.c_size_t, index))
    return seen


def _value(context: int, index: int) -> tuple[int, int | None, Any]:
    def of(name: str, result: Any, *more: int) -> Any:
        kinds = (POINTER, INDEX, *(ctypes.c_size_t for _ in more))
        return call(name, result, kinds, context, index, *more)

    kind = of("get_kv_type", ctypes.c_int)
    if kind == STRING:
        return kind, None, of("get_val_str", ctypes.c_char_p)
    if kind != ARRAY:
        return kind, None, ctypes.string_at(of("get_val_data", POINTER), size_of(kind))
    item, count = of("get_arr_type", ctypes.c_int), of("get_arr_n", ctypes.c_size_t)
    if item == STRING:
        return kind, item, [of("get_arr_str", ctypes.c_char_p, position) for position in range(count)]
    return kind, item, ctypes.string_at(of("get_arr_data", POINTER), count * size_of(item)) if count else b""


def size_of(kind: int) -> int:
    return 1 if FORMATS[kind] == "?" else int(FORMATS[kind][1:])
