"""`quantpress evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Chat, Chunks, Context, GpuLayers, Json, Quiet, Scratch, Text, Threads
from quantpress.progress import for_terminal

__all__ = ["evaluate"]


def evaluate(
    base: Annotated[Path, typer.Argument(metavar="BASE.gguf", help="The unquantized model.")],
    quants: Annotated[list[Path], typer.Argument(metavar="QUANT.gguf", help="The files to measure against it.")],
    text: Text,
    context: Context = 512,
    chunks: Chunks = None,
    chat: Chat = False,
    scratch: Scratch = None,
    scratch_gb: Annotated[
        float, typer.Option("--scratch-gb", metavar="GB", help="Use at most so much of it, in GB (10^9 bytes).")
    ] = 20,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure perplexity, and KL divergence from the base."""
    from quantpress.evaluate import evaluate

    found = evaluate(
        base,
        quants,
        text=text,
        context=context,
        chunks=chunks,
        chat=chat,
        scratch=scratch,
        scratch_limit=int(scratch_gb * 1e9),
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.json_or(printing.evaluations, found, as_json)
