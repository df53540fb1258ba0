"""`quantpress convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Json, Quiet, Remote
from quantpress.progress import for_terminal

__all__ = ["convert"]


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A Hugging Face checkpoint folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="BF16, F16 or F32.")] = "BF16",
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="Leave out tensors of this name, * for any text; repeatable."),
    ] = None,
    mmproj: Annotated[
        bool, typer.Option("--mmproj", help="Write the half that sees, named mmproj-….gguf, for its text half's file.")
    ] = False,
    remote: Remote = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to a GGUF file in float."""
    from quantpress.convert import convert

    path = convert(
        checkpoint,
        out,
        type=type,
        ignore=ignore or (),
        mmproj=mmproj,
        remote=remote,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([path], as_json)
