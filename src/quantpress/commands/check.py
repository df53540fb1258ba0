"""`quantpress check`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import GpuLayers, Json, Quiet, Threads
from quantpress.errors import InputError
from quantpress.progress import for_terminal

if TYPE_CHECKING:
    from quantpress.check import Finding

__all__ = ["check"]


def check(
    release: Annotated[Path, typer.Argument(metavar="RELEASE", help="The release folder.")],
    fast: Annotated[bool, typer.Option("--fast", help="Do not load the files in llama.cpp.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FOLDER", help="Compare the chat template with this checkpoint's."),
    ] = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for what is wrong with a release before it is published; exit code 2 if there are errors."""
    from quantpress.check import check

    found = check(
        release,
        fast=fast,
        checkpoint=checkpoint,
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.json_or(_show, found, as_json)
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(InputError.exit_code)


def _show(found: list[Finding]) -> None:
    """A finding a paragraph, then how many there are of each severity."""
    for finding in found:
        print(f"{finding.severity}: {finding.file}: {finding.what}" + (f". {finding.hint}" if finding.hint else ""))
    counts = Counter(finding.severity for finding in found)
    words = [f"{counts[one]} {one}{'' if counts[one] == 1 else 's'}" for one in ("error", "warning", "note")]
    print(f"{', '.join(words)}")
