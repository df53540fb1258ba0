"""`quantpress pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Json, Quiet
from quantpress.progress import for_terminal

if TYPE_CHECKING:
    from quantpress.pull import Pulled

__all__ = ["pull"]


def pull(
    repository: Annotated[str, typer.Argument(metavar="USER/NAME[@REVISION]", help="A repository on the Hub.")],
    include: Annotated[
        list[str], typer.Option("--include", metavar="PATTERN", help='Such as "*Q4_K_M*"; may be repeated.')
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to; default NAME in this folder.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch files of a repository, and verify their hashes. Run again, it goes on where it was."""
    from quantpress.pull import pull

    found = pull(repository, include=include, out=out, progress=for_terminal(quiet=quiet))
    printing.json_or(_show, found, as_json)


def _show(found: Pulled) -> None:
    """A line a file."""
    printing.paths([found.folder / name for name in (*found.fetched, *found.kept)], as_json=False)
