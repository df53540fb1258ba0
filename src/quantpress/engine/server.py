"""The child of `quantpress serve`: an OpenAI-compatible server of llama.cpp, which ends with its parent.

The parent writes one line of JSON, the settings, and keeps the pipe open. When that closes, because the parent wants it
or is gone, however it ended, the server finishes within `GRACE` seconds or is ended. The API key travels in that line
too: arguments are there for everyone to read.

Two servers. `llama-server`, where there is one, serves several requests side by side and reads tool calls. The other is
llama-cpp-python's, with what it has no option for set here, and for these reasons:

- no request is interrupted by the next one (`interrupt_requests`): they queue;
- memory is what `memory.footprint` says: logits of one position only, a cache of a sliding window no longer than the
  window, weights mapped and not locked. With such a cache the beginning that two prompts share can be kept only while
  the window before its end is still there, which llama-cpp-python does not look at (`_keeps`);
- weights are repacked for the CPU or not, as asked: its AMX kernels die with SIGSEGV under some hypervisors;
- nothing is read from the environment (`SEED`, `CACHE`, `CONFIG_FILE` and others are its settings too);
- an error within a stream is told (`_tell_errors`);
- pages of other sites may not talk to a server without a key: its CORS rule admits all.

The chat template is the model's own, a program from a downloaded file. llama-cpp-python 0.3.36 renders it in jinja2's
ImmutableSandboxedEnvironment (`llama_chat_format.Jinja2ChatFormatter`); llama-server has an interpreter of its own that
knows no files and no Python. Neither limits its time: stopping the server does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["GRACE", "ServerSettings", "program_command"]

GRACE = 5.0
"""Seconds in which a server that is told to stop lets go of its clients."""

_LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
_BATCH = 512


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What is served and how; `context` of each request; `program`: llama-server's, or None for llama-cpp-python's."""

    file: str
    name: str
    host: str
    port: int
    api_key: str | None
    context: int
    cache_type: str
    cache_type_id: int
    threads: int
    gpu_layers: int
    parallel: int
    repack: bool
    program: str | None

    def to_line(self) -> bytes:
        """As the child reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """The child: settings from the first line of standard input, whose end ends it."""
    settings = ServerSettings(**json.loads(sys.stdin.buffer.readline()))
    if settings.program is not None:
        _run_program(settings, settings.program)
    else:
        _run_library(settings)


def _stop_with_parent(stop: Callable[[], object], kill: Callable[[], object]) -> None:
    """When the parent closes the pipe `stop`, and `kill` what has not stopped in time."""

    def wait() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock this thread would hold when the interpreter ends
            pass
        stop()
        time.sleep(GRACE)
        kill()

    threading.Thread(target=wait, daemon=True).start()


def _run_program(settings: ServerSettings, program: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    if settings.api_key is not None:
        environment["LLAMA_API_KEY"] = settings.api_key
    process = subprocess.Popen(program_command(settings, program), env=environment, stdin=subprocess.DEVNULL)
    _stop_with_parent(process.terminate, process.kill)
    code = process.wait()
    if code < 0:  # our parent shall see how it ended
        os.kill(os.getpid(), -code)
    sys.exit(code)


def program_command(settings: ServerSettings, program: str) -> list[str]:
    """The command line of llama-server: as much memory as `memory.footprint` says, and `context` for every slot."""
    options = {
        "--model": settings.file,
        "--alias": settings.name,
        "--host": settings.host,
        "--port": settings.port,
        "--ctx-size": settings.context * settings.parallel,
        "--parallel": settings.parallel,
        "--cache-type-k": settings.cache_type.lower(),
        "--cache-type-v": settings.cache_type.lower(),
        "--threads": settings.threads,
        "--n-gpu-layers": "all" if settings.gpu_layers < 0 else settings.gpu_layers,
        "--fit": "off",  # the context is chosen
        "--cache-ram": 0,  # up to 8 GiB of earlier prompts otherwise
        "--ctx-checkpoints": 1,  # 32 copies of a sliding window or a state otherwise
        "--log-verbosity": 1,  # errors: the log is kept as long as it runs
    }
    if settings.api_key is None:
        options["--cors-origins"] = "localhost"
    switches = ["--no-kv-unified", "--repack" if settings.repack else "--no-repack", "--offline"]
    return [program, *(str(word) for option in options.items() for word in option), *switches]


def _run_library(settings: ServerSettings) -> None:
    import uvicorn

    config = uvicorn.Config(
        lambda: _app(settings),
        factory=True,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(GRACE) - 1,
    )
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    _stop_with_parent(stop, lambda: os._exit(0))
    server.run()
    os._exit(0)  # a thread that still computes a reply would be waited for


def _app(settings: ServerSettings) -> Any:
    """llama-cpp-python's application, with our model in it."""
    os.environ.pop("CONFIG_FILE", None)
    from llama_cpp.server import app as module
    from llama_cpp.server import settings as options

    model = _load(settings)

    class Proxy(module.LlamaProxy):  # type: ignore[misc]
        @staticmethod
        def load_llama_from_model_settings(_: Any) -> Any:
            return model

    module.LlamaProxy = Proxy
    _tell_errors(module)
    # model_construct: with defaults, and without a look at the environment
    served = options.ModelSettings.model_construct(model=settings.file, model_alias=settings.name)
    server = options.ServerSettings.model_construct(api_key=settings.api_key, interrupt_requests=False)
    app = module.create_app(server_settings=server, model_settings=[served])
    if settings.api_key is None:
        _admit_local_pages(app)
    return app


def _tell_errors(module: Any) -> None:
    """Make what fails within a stream, such as a prompt that is too long, its last event, not an end without a word."""
    publish = module.get_event_publisher

    def telling(call: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def chunks(*arguments: Any, **options: Any) -> Iterator[Any]:
            try:
                yield from call(*arguments, **options)
            except Exception as error:  # whatever it is, the client should know
                yield {"error": {"message": str(error), "type": type(error).__name__, "param": None, "code": None}}

        return chunks

    async def publisher(*, llama_call: Any, **rest: Any) -> None:
        await publish(llama_call=telling(llama_call), **rest)

    module.get_event_publisher = publisher


def _admit_local_pages(app: Any) -> None:
    """Replace the CORS rule by one for pages from this machine."""
    from fastapi.middleware.cors import CORSMiddleware

    app.user_middleware = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=_LOCAL_PAGES,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
    )


def _load(settings: ServerSettings) -> Any:
    """The model, as `memory.footprint` counts it; its log is silent once it is loaded."""
    import llama_cpp
    from llama_cpp._logger import set_verbose

    _set_parameters(llama_cpp, settings)
    model = _model_class(llama_cpp)(
        model_path=settings.file,
        n_gpu_layers=settings.gpu_layers,
        n_ctx=settings.context,
        n_batch=_BATCH,
        n_ubatch=_BATCH,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        type_k=settings.cache_type_id,
        type_v=settings.cache_type_id,
        swa_full=False,
        verbose=True,
    )
    has_template = "tokenizer.chat_template" in model.metadata
    model.chat_format = "chat_template.default" if has_template else "chatml"  # it would guess by comparing texts
    model.model_path = settings.name  # what replies call the model: clients need not know our folders
    model.verbose = False
    set_verbose(False)
    return model


def _set_parameters(llama_cpp: Any, settings: ServerSettings) -> None:
    """Set what `Llama` has no argument for, where it hands the parameters on."""
    from llama_cpp import _internals

    class Model(_internals.LlamaModel):  # type: ignore[misc]
        def __init__(self, *, params: Any, **rest: Any) -> None:
            params.use_extra_bufts = settings.repack
            super().__init__(params=params, **rest)

    class Context(_internals.LlamaContext):  # type: ignore[misc]
        def __init__(self, *, params: Any, **rest: Any) -> None:
            params.n_outputs_max = params.n_outputs_max_per_seq = 1
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
            super().__init__(params=params, **rest)

    _internals.LlamaModel, _internals.LlamaContext = Model, Context


def _model_class(llama_cpp: Any) -> Any:
    class Model(llama_cpp.Llama):  # type: ignore[misc]
        def generate(self, tokens: Any, *arguments: Any, **options: Any) -> Iterator[int]:
            if not _keeps(llama_cpp, self, tokens):
                self.reset()
            yield from super().generate(tokens, *arguments, **options)

    return Model


def _keeps(llama_cpp: Any, model: Any, tokens: Any) -> bool:
    """Whether the cache holds all that the next token after the shared beginning attends to."""
    shared = 0
    for ours, theirs in zip(model.input_ids[: model.n_tokens].tolist(), tokens, strict=False):
        if ours != theirs:
            break
        shared += 1
    window = llama_cpp.llama_model_n_swa(model.model)
    oldest = llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(model.ctx), 0)
    return bool(oldest <= max(0, shared - 1 - window))
