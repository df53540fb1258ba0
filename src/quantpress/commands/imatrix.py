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
from quantpress.errors import InputError
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
    moments: Annotated[
        bool, typer.Option("--moments", help="Also second moments of the inputs, to NAME.moments.gguf beside it.")
    ] = False,
    moments_memory: Annotated[
        str | None,
        typer.Option("--moments-memory", metavar="SIZE", help="For the sums of a pass over the text; default: half."),
    ] = None,
    moments_width: Annotated[
        int, typer.Option("--moments-width", metavar="N", help="Of inputs wider than this keep diagonal blocks only.")
    ] = 16384,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Collect an importance matrix; `imatrix MODEL.gguf …` is short for this."""
    from quantpress.imatrix import imatrix
    from quantpress.moments import beside
    from quantpress.sizes import parse_bytes

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
        moments=moments,
        moments_memory=None if moments_memory is None else parse_bytes(moments_memory, "moments-memory"),
        moments_width=moments_width,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([path, beside(path)] if moments else [path], as_json)


@app.command("merge")
def imatrix_merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Importance matrices of one model.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Add importance matrices up, each weighted by the tokens that it saw; also moments beside all of them."""
    from quantpress.imatrix import merge
    from quantpress.moments import merge_beside

    moments = merge_beside(files, out, for_terminal())
    merged = merge(files, out)
    printing.paths([merged] if moments is None else [merged, moments], as_json)


@app.command("show")
def imatrix_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix, or moments.")],
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
    from quantpress.moments import holds_moments, summary

    if holds_moments(file):
        if plot is not None:
            raise InputError(file, "plot", expected="an importance matrix", found="moments")
        printing.json_or(printing.moments, summary(file, model=model), as_json)
        return
    found = show(file, model=model, min_tokens=min_tokens)
    if plot is not None:
        from quantpress.plots import coverage

        coverage(found, plot, title=file.name)
    printing.json_or(printing.imatrix, found, as_json)
