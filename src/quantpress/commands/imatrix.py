"""`quantpress imatrix`: collect, merge, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import (
    Chat,
    Chunks,
    CollectByDefault,
    Context,
    GpuLayers,
    Json,
    Model,
    Out,
    Quiet,
    Text,
    Threads,
)
from quantpress.progress import for_terminal

__all__ = ["app"]

app = typer.Typer(cls=CollectByDefault, no_args_is_help=True, rich_markup_mode=None)


@app.command("collect")
def imatrix(
    model: Model,
    text: Text,
    out: Out,
    chunks: Chunks = None,
    context: Context = 512,
    process_output: Annotated[
        bool,
        typer.Option("--process-output/--no-process-output", help="For the output too, also if it is the embedding."),
    ] = True,
    chat: Chat = False,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Collect an importance matrix; `imatrix MODEL.gguf …` is short for this."""
    from quantpress.imatrix import imatrix

    path = imatrix(
        model,
        text=text,
        out=out,
        chunks=chunks,
        context=context,
        process_output=process_output,
        chat=chat,
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([path], as_json)


@app.command("merge")
def imatrix_merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Importance matrices of one model.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Add importance matrices up, each weighted by the tokens that it saw."""
    from quantpress.imatrix import merge

    printing.paths([merge(files, out)], as_json)


@app.command("show")
def imatrix_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix.")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model it is for: shows what is not covered.")
    ] = None,
    min_tokens: Annotated[int, typer.Option("--min-tokens", metavar="N", help="Fewer than this is too few.")] = 512,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw which weights saw how many tokens.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show statistics a tensor, coverage, tensors and experts that saw too few tokens."""
    from quantpress.imatrix import show

    found = show(file, model=model, min_tokens=min_tokens)
    if plot is not None:
        from quantpress.plots import coverage

        coverage(found, plot, title=file.name)
    printing.json_or(printing.imatrix, found, as_json)
