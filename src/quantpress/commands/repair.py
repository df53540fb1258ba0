"""`quantpress repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Chat, Imatrix, Json, Model, Out, Quiet, Split, Text, Threads
from quantpress.progress import for_terminal

__all__ = ["repair"]


def repair(
    model: Model,
    quantized: Annotated[Path, typer.Argument(metavar="QUANTIZED.gguf", help="A file quantized from it.")],
    text: Text,
    out: Out,
    imatrix: Imatrix = None,
    moments: Annotated[
        Path | None,
        typer.Option("--moments", metavar="FILE", help="Second moments of the inputs; default: beside the imatrix."),
    ] = None,
    chunks: Annotated[int, typer.Option("--chunks", metavar="N", min=2, help="Windows of 512 tokens to use.")] = 64,
    chat: Chat = False,
    split_gb: Split = 50,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a quantized file anew, each layer repairing what those before it have done; its size stays the same."""
    from quantpress.repair import repair

    path, _ = repair(
        model,
        quantized,
        text=text,
        out=out,
        imatrix=imatrix,
        moments=moments,
        chunks=chunks,
        chat=chat,
        threads=threads,
        split_bytes=int(split_gb * 1e9),
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([path], as_json)
