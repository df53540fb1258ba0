"""`quantpress serve`."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantpress.commands import printing
from quantpress.commands.options import GpuLayers, Json, Quiet, Threads
from quantpress.progress import for_terminal

if TYPE_CHECKING:
    from quantpress.serve import Server, Serving

__all__ = ["serve"]

_HERMES_CONTEXT = 64_000  # what Hermes asks of a model


def serve(
    model: Annotated[Path, typer.Argument(metavar="FILE_OR_RELEASE", help="A GGUF file, or the folder of a release.")],
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port; 0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", envvar="QUANTPRESS_API_KEY", show_envvar=True, help="What clients must send."
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Tokens of a request; default the most that fits.")
    ] = None,
    kv: Annotated[str, typer.Option("--kv", metavar="TYPE", help="Type of the KV cache: f16, q8_0, …")] = "f16",
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What it may take, 16GB; default what is available.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", metavar="N", help="Requests side by side, with llama-server; default 2.")
    ] = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    repack: Annotated[
        bool, typer.Option("--repack/--no-repack", help="Let llama.cpp rearrange weights for the CPU.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve a model to OpenAI clients until Ctrl-C, which ends it with exit code 0 once it is ready."""
    from quantpress.serve import serve
    from quantpress.sizes import parse_bytes

    server = serve(
        model,
        host=host,
        port=port,
        api_key=api_key,
        context=context,
        cache_type=kv,
        memory=None if memory is None else parse_bytes(memory, "memory"),
        parallel=parallel,
        threads=threads,
        gpu_layers=gpu_layers,
        repack=repack,
        progress=for_terminal(quiet=quiet),
    )
    with server, _stopped_by_signals(server):
        printing.json_or(_show, server.serving, as_json)
        sys.stdout.flush()
        server.wait()


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the server, a second one at once, and raise nothing wherever they come."""

    def stop(number: int, frame: Any) -> None:
        del number, frame
        server.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        server.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(found: Serving) -> None:
    """Where it is, what it is, and how programs are told."""
    from quantpress.sizes import human_size

    key = "the one you gave" if found.key else "any text"
    side_by_side = f"{found.parallel} side by side, others wait" if found.parallel > 1 else "one at a time, others wait"
    template = "the model's own" if found.template else "ChatML: the file has none"
    name = shlex.quote(found.model)
    print(f"{found.file}\nis served at {found.base_url} by {found.program}\n")
    print(f"  context    {found.context:,} tokens: {found.why}")
    print(f"  memory     {human_size(found.memory)}")
    print(f"  requests   {side_by_side}")
    print(f"  template   {template}\n")
    print("Hermes")
    print("  hermes config set model.provider custom")
    print(f"  hermes config set model.base_url {found.base_url}")
    print(f"  hermes config set model.default {name}")
    if found.key:
        print("  hermes config set model.api_key KEY")
    if found.context < _HERMES_CONTEXT:
        print(f"  (it asks for a context of {_HERMES_CONTEXT:,} tokens or more)")
    if not found.tool_calls:
        print("  (its tools need the replies of llama-server: put it on the PATH and serve again)")
    print("\nOpenAI clients")
    print(f"  base_url   {found.base_url}\n  api_key    {key}\n  model      {found.model}")
    print("\nLM Studio: its plugin lmstudio/openai-compat-endpoint")
    print(f"  Base URL   {found.base_url}\n  API Key    {key}\n  Model      {found.model}")
    print("\nCtrl-C stops it.")
