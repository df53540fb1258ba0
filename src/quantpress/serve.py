"""A model behind the OpenAI-compatible server of llama.cpp, on this machine, with a context that fits its memory.

What runs is the `llama-server` on the PATH, or else the server of llama-cpp-python, which is always installed: in a
child process that ends with ours (`engine.server` says how they differ, and what becomes of the chat template). Both
keep to the memory that `memory.footprint` counts. llama-server answers several requests side by side and reads tool
calls from what a model writes; with llama-cpp-python's, requests wait for one another, and none fails for it.

It listens on this machine only, unless a key protects it.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_left
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from quantpress.available import available_memory
from quantpress.choose.offload import RESERVE
from quantpress.cpu import default_threads
from quantpress.engine.server import ServerSettings
from quantpress.engine.serving import ServerProcess
from quantpress.errors import InputError, PlanError
from quantpress.formats import TYPES
from quantpress.gguf import GGUF
from quantpress.listening import free_address
from quantpress.memory import Footprint, footprint
from quantpress.model import check_threads, read_model
from quantpress.names import stem
from quantpress.progress import SILENT, Progress
from quantpress.sizes import human_size

__all__ = ["Server", "Serving", "choose_context", "serve"]

_ODD = re.compile(r"[^\w.+-]+")
_POWERS = tuple(1 << k for k in range(9, 24))  # of contexts: 512 and up
_SIDE_BY_SIDE = 2  # requests, with llama-server


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, for those who connect to `base_url`.

    `key`: whether they must send one; `context`: tokens of a request, and `why` so many; `memory`: bytes that llama.cpp
    takes; `parallel`: requests side by side; `template`: whether the file has its own, else it is ChatML; `tool_calls`:
    whether replies have them, instead of the text by which the model calls.
    """

    file: str
    model: str
    base_url: str
    key: bool
    context: int
    why: str
    memory: int
    parallel: int
    template: bool
    tool_calls: bool
    program: str


class Server:
    """A server that answers, and what it serves; a context manager, at whose end it is gone."""

    def __init__(self, process: ServerProcess, serving: Serving) -> None:
        self.process, self.serving = process, serving

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Return when the server has been stopped; raises EngineError if it ends by itself."""
        self.process.wait()

    def stop(self) -> None:
        """Tell it to finish, and a second time to end at once; returns immediately, as a signal handler must."""
        self.process.stop()

    def close(self) -> None:
        """Stop it, and return when it is gone and its port is free."""
        self.process.close()


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    context: int | None = None,
    cache_type: str = "F16",
    memory: int | None = None,
    parallel: int | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    repack: bool = True,
    progress: Progress = SILENT,
) -> Server:
    """Start a server; return once it has written a token.

    Args:
        model: a GGUF file, or the folder of a release, of which `choose` takes a file.
        host: address to listen on; one that other machines can reach needs a key.
        port: 0 for any that is free.
        api_key: what clients must send; printable ASCII without spaces and commas.
        context: tokens of a request; default as many as fit, see `choose_context`.
        cache_type: type of the KV cache, one of `memory.CACHE_TYPES`.
        memory: bytes that llama.cpp may take; default what this machine has available, less what the rest needs.
        parallel: requests that are answered side by side; default 2 with llama-server. The other takes 1.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all; they count as memory all the same.
        repack: let llama.cpp rearrange weights for the CPU: faster, and a SIGSEGV under some hypervisors.
        progress: told which file is loaded.

    Raises InputError for an address, a key or a file that will not do, PlanError for a context that does not fit,
    EngineError where the server does not start.
    """
    check_threads(threads)
    address = free_address(host, port, api_key)
    program = shutil.which("llama-server")
    parallel = _side_by_side(parallel, program)
    file = _file(Path(model), memory, context, cache_type)
    with read_model(file) as source:
        _check_predicts(source)
        room = available_memory().bytes - RESERVE if memory is None else memory
        chosen, why = choose_context(source, room, context=context, cache_type=cache_type, parallel=parallel)
        template = isinstance(source.get("tokenizer.chat_template"), str)
    name = _ODD.sub("-", stem(file))
    settings = ServerSettings(
        file=str(file), name=name, host=address.host, port=address.port, api_key=api_key, context=chosen.context,
        cache_type=chosen.cache_type, cache_type_id=TYPES[chosen.cache_type].id, threads=threads or default_threads(),
        gpu_layers=gpu_layers, parallel=parallel, repack=repack, program=program,
    )  # fmt: skip
    serving = Serving(
        file=str(file), model=name, base_url=address.url, key=api_key is not None, context=chosen.context, why=why,
        memory=_total(chosen, parallel), parallel=parallel, template=template,
        tool_calls=program is not None, program=program or f"llama-cpp-python {version('llama-cpp-python')}",
    )  # fmt: skip
    progress.note(f"{file}: loading")
    return Server(ServerProcess(settings, address.url), serving)


def choose_context(
    model: GGUF, memory: int, *, context: int | None = None, cache_type: str = "F16", parallel: int = 1
) -> tuple[Footprint, str]:
    """The footprint of the context to serve with, and why that one.

    It is the most that the model was trained on or, where that does not fit, the largest power of two that does.
    `parallel` requests have a cache each. Raises PlanError where nothing fits, or not the `context` that is asked for.
    """
    trained = model.get(f"{model.get('general.architecture')}.context_length")
    if not isinstance(trained, int) or trained < 1:
        raise InputError(model.path, "context_length", expected="the tokens it was trained on", found=trained)
    if context is not None and not 1 <= context <= trained:
        expected = f"1 to {trained:,} tokens, which the model was trained on"
        raise PlanError(model.path, "context", expected=expected, found=f"{context:,}")
    found: dict[int, Footprint] = {}

    def fits(tokens: int) -> bool:
        found[tokens] = footprint(model, context=tokens, cache_type=cache_type, outputs=1)
        return _total(found[tokens], parallel) <= memory

    most = context or trained
    if fits(most):
        return found[most], "as asked" if context else "all that the model was trained on"
    powers = [] if context else [power for power in _POWERS if power < trained]
    fitting = bisect_left(powers, True, key=lambda tokens: not fits(tokens))
    if not fitting:
        raise _too_little(model, memory, found[min(found)], parallel)
    chosen, above = powers[fitting - 1], (*powers, trained)[fitting]
    needed = human_size(_total(found[above], parallel))
    return found[chosen], f"{above:,} would take {needed} of memory, and there are {human_size(memory)}"


def _total(found: Footprint, parallel: int) -> int:
    """Bytes with a cache for each of the requests at a time."""
    return found.total + (parallel - 1) * found.cache


def _too_little(model: GGUF, memory: int, least: Footprint, parallel: int) -> PlanError:
    expected = f"at least {human_size(_total(least, parallel))} for a context of {least.context:,} tokens"
    if parallel > 1:
        expected += f" for each of {parallel} requests"
    hint = "Take a smaller file, a shorter context or a smaller cache (--kv q8_0), or say --memory if there is more"
    return PlanError(model.path, "memory", expected=expected, found=human_size(max(0, memory)), hint=hint)


def _file(model: Path, memory: int | None, context: int | None, cache_type: str) -> Path:
    """The file itself, or the one to take of a release."""
    if not model.is_dir():
        return model
    from quantpress.choose import choose

    return model / choose(model, memory=memory, context=context, cache_type=cache_type).file


def _check_predicts(model: GGUF) -> None:
    """Raise InputError for a model that embeds texts: it would write zeros."""
    architecture = model.get("general.architecture")
    pooling = model.get(f"{architecture}.pooling_type")
    if model.get(f"{architecture}.attention.causal") is False or (isinstance(pooling, int) and pooling > 0):
        expected, found = "a model that writes texts", f"one that embeds them ({architecture})"
        raise InputError(model.path, "general.architecture", expected=expected, found=found)


def _side_by_side(parallel: int | None, program: str | None) -> int:
    """How many requests are answered at a time."""
    if parallel is None:
        return _SIDE_BY_SIDE if program else 1
    if parallel < 1:
        raise InputError(None, "parallel", expected="at least 1", found=parallel)
    if parallel > 1 and program is None:
        hint = "More needs llama-server on the PATH; here requests wait for one another"
        raise InputError(None, "parallel", expected="1 with llama-cpp-python's server", found=parallel, hint=hint)
    return parallel
