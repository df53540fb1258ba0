"""numpy's BLAS on one thread: whoever needs more shares the products out among threads of their own.

OpenBLAS's threads hand work over by spinning: on a machine whose cores are taken, as llama.cpp's own threads take them,
a product of 256 × 512 × 256 took 30 to 100 times as long with two of them as with one (measured). The library has no
interface in numpy; the symbol is found through numpy's own extension, to which it is linked. Of a numpy with another
BLAS (Accelerate, MKL) nothing is changed.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np  # noqa: F401  (it loads the extension)

__all__ = ["one_thread"]

_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")


@contextmanager
def one_thread() -> Iterator[None]:
    """Within: products of this process, in all its threads, take one thread each."""
    found = _functions()
    if found is None:
        yield
        return
    get, set_ = found
    before = get()
    set_(1)
    try:
        yield
    finally:
        set_(before)


@functools.cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The number of OpenBLAS's threads: what tells it, and what sets it; None where there are no such functions."""
    loaded = (sys.modules.get(f"numpy.{core}._multiarray_umath") for core in ("_core", "core"))  # of numpy 2, of 1
    extension = next((module for module in loaded if module is not None), None)
    if extension is None or extension.__file__ is None:
        return None
    library = ctypes.CDLL(extension.__file__)
    for name in _NAMES:
        try:
            get, set_ = (getattr(library, name.format(what)) for what in ("get", "set"))
        except AttributeError:
            continue
        get.restype, set_.restype, set_.argtypes = ctypes.c_int, None, (ctypes.c_int,)
        return get, set_
    return None
