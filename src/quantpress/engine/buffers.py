"""What llama.cpp would allocate for a model and a context, from a simulation of its own that needs the header alone.

With `no_alloc` llama.cpp loads metadata, makes the context, its caches and its worst graphs, and allocates nothing but
the output buffer and recurrent states, which are small. So what it says is right for every architecture that it knows,
and stays right; formulas of ours would have to follow each of its caches (sliding windows, shared layers, latent
attention, indexers, states) and its graph planner, which no formula describes.

Its sizes are in its log only: `llama_get_memory_breakdown` returns a C++ map, which ctypes cannot read. The log has
hundredths of a MiB, and of a simulated cache 0.00 as the buffer's size but the true one in the line that sums it up:

    llama_kv_cache:        CPU KV buffer size =     0.00 MiB
    llama_kv_cache: size =    0.94 MiB (   768 cells,   5 layers,  1/1 seqs), K (f16):    0.47 MiB, V (f16):    0.47 MiB

Before that line stands, for each layer that the cache serves, `layer 17: dev = CPU`: so the sum is shared out to them.

A log of another form is refused: a number that is missing would otherwise be a plan that does not fit.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from quantpress.children import python_command
from quantpress.engine.supervisor import ending, tail
from quantpress.errors import EngineError, PlanError
from quantpress.formats import TensorType

__all__ = ["Buffers", "parse", "simulate"]

_COMMAND = "from quantpress.engine.buffers import main; main()"
_BUFFER = re.compile(r"(\w+) buffer size = +([0-9.]+) MiB$", re.MULTILINE)
_CACHE = re.compile(r"(?<!buffer )size = +([0-9.]+) MiB(?: \(|$)", re.MULTILINE)
_LAYER = re.compile(r"layer +([0-9]+): dev = ", re.MULTILINE)
_UNUSED = re.compile(r"unused tensor \S+ \(size = ([0-9]+) bytes\) -- ignoring")
_CACHE_KINDS = ("KV", "RS", "state")  # state: DeepSeek V4's compressors
_ERROR, _CONTINUED = 4, 5
_NO_DEVICES = (ctypes.c_void_p * 1)(None)  # but the CPU, on any build: the numbers are the same everywhere


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes beside the weights, each log line's number rounded up; `unused` bytes of tensors that are not loaded.

    `layers` has of `cache` what each layer takes, those left out that have none: the layers of one cache (those with a
    sliding window have one, the others another) get equal shares, rounded up.
    """

    cache: int
    compute: int
    output: int
    unused: int
    layers: Mapping[int, int] = field(default_factory=dict)


def simulate(model: Path, *, context: int, cache_type: TensorType, outputs: int, name: Path) -> Buffers:
    """Ask llama.cpp about a file whose header is right and whose data may be a hole; one sequence, on the CPU.

    `outputs`: how many positions of a batch have logits, 0 for all; `name`: the model's for messages. Raises PlanError
    for a cache type that llama.cpp refuses with this model, EngineError for a model that it does not load, a crash, and
    a log that is of another form.
    """
    question = {"model": str(model), "context": context, "cache_type": cache_type.id, "outputs": outputs}
    command = python_command(_COMMAND, json.dumps(question))
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise EngineError(f"{name}: llama.cpp's process {ending(done.returncode)}{tail(done.stderr)}")
    answer = json.loads(done.stdout)
    if not answer["loaded"]:
        raise EngineError(f"{name}: llama.cpp cannot load this model{tail(done.stderr)}")
    if not answer["made"]:
        raise _refusal(answer["errors"], context, cache_type, name, done.stderr)
    return parse(answer["loading"], answer["making"], caches=answer["caches"], name=name)


def _refusal(errors: list[str], context: int, cache_type: TensorType, name: Path, log: str) -> Exception:
    """Why there is no context: a cache type that does not go with the model, or something else."""
    about_cache = [error.split(": ", 1)[-1] for error in errors if "K cache" in error or "V cache" in error]
    if not about_cache:
        return EngineError(f"{name}: llama.cpp cannot make a context of {context:,} tokens{tail(log)}")
    expected, found = "one that llama.cpp takes with this model", f"{cache_type.name}: {about_cache[-1]}"
    return PlanError(name, "type of the KV cache", expected=expected, found=found, hint="F16 goes with every model")


def parse(loading: str, making: str, *, caches: bool, name: Path) -> Buffers:
    """The sizes in the log of a model that was loaded and of the context that was made.

    `caches`: whether the context has any, as one of a model that embeds texts has not. Raises EngineError for a log
    that lacks a size or has one of another kind.
    """
    sizes: dict[str, list[int]] = {"compute": [], "output": []}
    announced = 0
    for kind, size in _BUFFER.findall(making):
        if kind in _CACHE_KINDS:
            announced += 1
        elif kind in sizes:
            sizes[kind].append(_bytes(size))
        else:
            raise _unreadable(name, f"a {kind} buffer too")
    cached = [_bytes(size) for size in _CACHE.findall(making)]
    for kind, found in (*sizes.items(), ("cache", cached if caches else [0])):
        if not found:
            raise _unreadable(name, f"no size of the {kind}")
    if len(cached) < announced:
        raise _unreadable(name, f"{announced} buffers of caches and {len(cached)} sizes")
    unused = sum(map(int, _UNUSED.findall(loading)))
    return Buffers(sum(cached), sum(sizes["compute"]), sum(sizes["output"]), unused, _layers(making))


def _layers(making: str) -> dict[int, int]:
    """Bytes of each layer's cache: a cache's layers stand before its size."""
    found: dict[int, int] = {}
    start = 0
    for sum_line in _CACHE.finditer(making):
        layers = [int(number) for number in _LAYER.findall(making, start, sum_line.start())]
        for layer in layers:
            found[layer] = found.get(layer, 0) + ceil(_bytes(sum_line[1]) / len(layers))
        start = sum_line.end()
    return found


def _bytes(mebibytes: str) -> int:
    """The most that a number of MiB in hundredths may have been."""
    return ceil((float(mebibytes) + 0.005) * (1 << 20))


def _unreadable(name: Path, found: str) -> EngineError:
    return EngineError(
        f"{name}: llama.cpp's log: expected the size of each buffer, found {found}. "
        "Its form has changed: install llama-cpp-python 0.3.36"
    )


def main() -> None:
    """The child: make the model and the context that `sys.argv[1]` asks for, answer on standard output."""
    import llama_cpp.llama_cpp as llama

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    question = json.loads(sys.argv[1])
    log = _Log()
    callback = llama.llama_log_callback(log)
    llama.llama_log_set(callback, None)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(os.fsencode(question["model"]), _model_parameters(llama))
    loading = log.take()
    context = llama.llama_init_from_model(model, _context_parameters(llama, question)) if model else None
    answer = {
        "loaded": bool(model),
        "made": bool(context),
        "caches": bool(context and llama.llama_get_memory(context)),
        "loading": loading,
        "making": log.take(),
        "errors": log.errors,
    }
    with answers:
        json.dump(answer, answers)


class _Log:
    """llama.cpp's log: kept, and passed on for the case that the process dies."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.errors: list[str] = []
        self.level = 0

    def __call__(self, level: int, text: bytes, _: Any) -> None:
        self.level = self.level if level == _CONTINUED else level
        self.texts.append(text)
        if self.level == _ERROR:
            self.errors.append(text.decode(errors="replace").strip())
        os.write(2, text)

    def take(self) -> str:
        texts, self.texts = self.texts, []
        return b"".join(texts).decode(errors="replace")


def _model_parameters(llama: Any) -> Any:
    parameters = llama.llama_model_default_params()
    parameters.no_alloc, parameters.load_mode = True, llama.LLAMA_LOAD_MODE_NONE
    parameters.n_gpu_layers, parameters.use_extra_bufts = 0, False
    parameters.devices = ctypes.addressof(_NO_DEVICES)
    return parameters


def _context_parameters(llama: Any, question: dict[str, Any]) -> Any:
    parameters = llama.llama_context_default_params()
    parameters.n_ctx, parameters.n_seq_max = question["context"], 1
    parameters.n_outputs_max = parameters.n_outputs_max_per_seq = question["outputs"]
    parameters.type_k = parameters.type_v = question["cache_type"]
    parameters.swa_full = False  # as all of llama.cpp's programs set it
    return parameters
