"""`quantpress choose`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Json

if TYPE_CHECKING:
    from quantpress.choose import Choice, Neighbour, Side

__all__ = ["choose"]

Release = Annotated[
    str, typer.Argument(metavar="RELEASE", help="A release, a folder of GGUF files, one file, or USER/NAME on the Hub.")
]


def choose(
    release: Release,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What it may take, 16GB; default what is available.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="SIZE", help="What it may take of a GPU, 12GB.")] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="N", min=1, help="Tokens; default 16384, or all that the model can."),
    ] = None,
    kv: Annotated[str, typer.Option("--kv", metavar="TYPE", help="Type of the KV cache: f16, q8_0, …")] = "f16",
    prefer: Annotated[str, typer.Option("--prefer", metavar="NAME", help="quality or speed.")] = "quality",
    as_json: Json = False,
) -> None:
    """Say which file of a release to take for a memory, why, and how to run it."""
    from quantpress.choose import choose
    from quantpress.sizes import parse_bytes

    found = choose(
        release,
        memory=None if memory is None else parse_bytes(memory, "memory"),
        gpu=0 if gpu is None else parse_bytes(gpu, "gpu"),
        context=context,
        cache_type=kv,
        prefer=prefer,
    )
    printing.json_or(_show, found, as_json)


def _show(found: Choice) -> None:
    """The file, why, what is left, the neighbours, the commands, what is assumed."""
    from quantpress.sizes import human_size

    print(f"{found.file}: {human_size(found.bytes)}, {found.bits_per_weight:.2f} bits a weight{_measured(found)}")
    print(f"{found.why}\n")
    taken = found.footprint
    parts = f"weights {human_size(taken.weights)}, cache {human_size(taken.cache)} ({taken.context:,} tokens"
    print(f"  needs      {parts}, {taken.cache_type}), compute buffers {human_size(taken.compute)}")
    print(f"  memory     {_side(found.memory)}")
    if found.gpu:
        layers = min(found.gpu_layers, found.layers)
        print(f"  GPU        {_side(found.gpu)}")
        print(f"  layers     {layers} of {found.layers} on the GPU: -ngl {found.gpu_layers}")
    print(f"  larger     {_neighbour(found.larger)}")
    print(f"  smaller    {_neighbour(found.smaller)}\n")
    for command in found.commands.values():
        print(shlex.join(command))
    print()
    for note in found.notes:
        print(f"- {note}")


def _measured(found: Choice | Neighbour) -> str:
    kld = "" if found.kld_mean is None else f", KLD {found.kld_mean:.2g}"
    return kld + ("" if found.speed is None else f", {found.speed:.1f} tokens/s")


def _side(found: Side) -> str:
    from quantpress.sizes import human_size

    sizes = [human_size(size) for size in (found.needed, found.size, found.left)]
    return f"{sizes[0]} of {sizes[1]}, {sizes[2]} left ({found.source})"


def _neighbour(found: Neighbour | None) -> str:
    from quantpress.sizes import human_size

    if found is None:
        return "none"
    does = "fits" if found.fits else "does not fit"
    return f"{found.file}, {human_size(found.bytes)}{_measured(found)}: needs about {human_size(found.needed)}, {does}"
