"""`quantpress quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import (
    AllowPlain,
    Effort,
    Encoder,
    Imatrix,
    Json,
    Model,
    Moments,
    Quiet,
    Split,
    Threads,
)
from quantpress.progress import for_terminal

__all__ = ["quantize"]


def quantize(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write MODEL-RECIPE.gguf.")],
    type: Annotated[list[str], typer.Option("--type", metavar="RECIPE", help="A recipe; may be repeated.")] = [],  # noqa: B006
    plan: Annotated[list[Path], typer.Option("--plan", metavar="FILE", help="A plan.json; may be repeated.")] = [],  # noqa: B006
    imatrix: Imatrix = None,
    encoder: Encoder = "quantpress",
    effort: Effort = "normal",
    moments: Moments = None,
    allow_plain: AllowPlain = False,
    split_gb: Split = 50,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Take a model that is quantized already, at a loss.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize to any number of types in one pass over the model."""
    from quantpress.quantize import quantize

    found = quantize(
        model,
        out=out,
        types=type,
        plans=plan,
        imatrix=imatrix,
        encoder=encoder,
        effort=effort,
        moments=moments,
        allow_plain=allow_plain,
        threads=threads,
        split_bytes=int(split_gb * 1e9),
        allow_requantize=allow_requantize,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths(found, as_json)
