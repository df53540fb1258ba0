"""The processors that llama.cpp finds, and the layouts into which it can repack weights for the CPU.

ggml's CPU backend lists its layouts best first, by the names of their buffers: AMX, CPU_KLEIDIAI, CPU_REPACK, as far as
it was built with them. The loader puts a weight into the first whose kernels take it. llama.cpp itself lets all be used
or none, and all can be one too many: AMX kills the process under hypervisors that advertise it and do not run it. The
list, however, is a plain array of the process, from which `allow_layouts` strikes out. `tensor_buft_overrides` would
not do: they force a buffer on a tensor, and which tensors a layout takes would be ours to know.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from quantpress.children import python_command
from quantpress.engine.ggml import library_path, load
from quantpress.engine.supervisor import ending, tail
from quantpress.errors import EngineError

__all__ = ["Hardware", "allow_layouts", "hardware"]

_COMMAND = "from quantpress.engine.devices import main; main()"
_CPU, _GPUS = 0, (1, 2)  # ggml_backend_dev_type: a GPU with memory of its own, or with the host's
_OF_THE_BUILD = {"ACCELERATE", "KLEIDIAI", "LLAMAFILE", "OPENMP", "REPACK"}  # and not of the processor


class _Feature(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class Hardware:
    """Names of the processors; of the CPU the features that llama.cpp uses and the layouts, its favourite first."""

    cpu: str
    gpus: tuple[str, ...]
    features: tuple[str, ...]
    layouts: tuple[str, ...]


@functools.cache
def hardware() -> Hardware:
    """The machine as llama.cpp sees it, asked in a child process; raises EngineError if its libraries do not load."""
    done = subprocess.run(python_command(_COMMAND), capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise EngineError(f"llama.cpp's process {ending(done.returncode)}, asked for its devices{tail(done.stderr)}")
    return Hardware(**{name: _frozen(value) for name, value in json.loads(done.stdout).items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def main() -> None:
    """The child: answer on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import llama_cpp.llama_cpp as llama

    llama.llama_backend_init()
    backends = _Backends()
    answer = {
        "cpu": backends.describe(backends.cpu),
        "gpus": [backends.describe(device) for device in backends.devices(*_GPUS)],
        "features": backends.features(),
        "layouts": [name for name, _ in backends.layouts()],
    }
    with answers:
        json.dump(answer, answers)


def allow_layouts(names: Collection[str]) -> None:
    """Let models that this process loads from now on have these layouts only."""
    backends = _Backends()
    found = backends.layouts()
    kept = [type for name, type in found if name in names]
    for i in range(len(found)):
        backends.list[i] = kept[i] if i < len(kept) else None  # it ends with a null pointer


class _Backends:
    """ggml's registry of devices in this process, where llama.cpp is loaded."""

    def __init__(self) -> None:
        self.base = load(_signatures())
        path = library_path()
        self.registry = ctypes.CDLL(str(path.with_name(path.name.replace("ggml-base", "ggml"))))
        self.registry.ggml_backend_dev_get.restype = ctypes.c_void_p
        self.registry.ggml_backend_dev_get.argtypes = (ctypes.c_size_t,)
        self.registry.ggml_backend_dev_count.restype = ctypes.c_size_t
        (self.cpu,) = self.devices(_CPU)
        array = ctypes.POINTER(ctypes.c_void_p)
        listing = self._function("ggml_backend_dev_get_extra_bufts", array, ctypes.c_void_p)
        self.list = listing(self.cpu) if listing else (ctypes.c_void_p * 1)()

    def devices(self, *types: int) -> list[int]:
        """The devices of these types."""
        found = [self.registry.ggml_backend_dev_get(i) for i in range(self.registry.ggml_backend_dev_count())]
        return [device for device in found if self.base.ggml_backend_dev_type(device) in types]

    def describe(self, device: int) -> str:
        """Its maker's name for it."""
        text: bytes = self.base.ggml_backend_dev_description(device)
        return " ".join(text.decode(errors="replace").split())

    def features(self) -> list[str]:
        """What of the CPU's instruction set is used; a length of vectors as NAME=VALUE."""
        listing = self._function("ggml_backend_get_features", ctypes.POINTER(_Feature), ctypes.c_void_p)
        found = []
        pairs = listing(self.base.ggml_backend_dev_backend_reg(self.cpu)) if listing else (_Feature * 1)()
        for name, value in _until_null(pairs):
            if name not in _OF_THE_BUILD:
                found.append(name if value == "1" else f"{name}={value}")
        return found

    def layouts(self) -> list[tuple[str, int]]:
        """(name, buffer type) of each, the favourite first."""
        found: list[tuple[str, int]] = []
        while type := self.list[len(found)]:
            found.append((self.base.ggml_backend_buft_name(type).decode(), type))
        return found

    def _function(self, name: str, result: Any, argument: Any) -> Any:
        """A function that the CPU backend may or may not have; None if it has not."""
        registration = self.base.ggml_backend_dev_backend_reg(self.cpu)
        address = self.base.ggml_backend_reg_get_proc_address(registration, name.encode())
        return ctypes.CFUNCTYPE(result, argument)(address) if address else None


def _until_null(features: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while features[len(found)].name:
        feature = features[len(found)]
        found.append((feature.name.decode(), feature.value.decode()))
    return found


def _signatures() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    return {
        "ggml_backend_dev_type": (ctypes.c_int, (pointer,)),
        "ggml_backend_dev_description": (text, (pointer,)),
        "ggml_backend_dev_backend_reg": (pointer, (pointer,)),
        "ggml_backend_reg_get_proc_address": (pointer, (pointer, text)),
        "ggml_backend_buft_name": (text, (pointer,)),
    }
