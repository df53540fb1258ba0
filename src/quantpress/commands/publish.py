"""`quantpress publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import Json, Quiet
from quantpress.progress import for_terminal
from quantpress.sizes import human_size, parse_bytes

if TYPE_CHECKING:
    from quantpress.publish import Publication

__all__ = ["publish"]


def publish(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="A folder that `quantpress release` made.")],
    repository: Annotated[
        str | None,
        typer.Option("--repo", metavar="USER/NAME", help="On the Hub; made if missing. Default: the release's."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print what would be sent.")] = False,
    split_size: Annotated[
        str, typer.Option("--split-size", metavar="SIZE", help="Split larger models first.")
    ] = "50GB",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a release and send it to the Hugging Face Hub, its page last. Run again, it sends what is missing."""
    from quantpress.publish import publish

    found = publish(
        folder,
        repository=repository,
        private=private,
        dry_run=dry_run,
        split_bytes=parse_bytes(split_size, "--split-size"),
        progress=for_terminal(quiet=quiet),
    )
    printing.json_or(_show, found, as_json)


def _show(found: Publication) -> None:
    """A line a file, and where they are."""
    says = {(False, True): "sent", (True, True): "would be sent"}
    rows = [(item.file, item.bytes, says.get((found.dry_run, item.sent), "kept"), item.why) for item in found.files]
    printing.table(("file", "bytes", "", "why"), rows)
    count = sum(item.sent for item in found.files)
    print(f"\n{found.url}: {count} of {len(rows)} files {says[found.dry_run, True]}, {human_size(found.bytes)}")
