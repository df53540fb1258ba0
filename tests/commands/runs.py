"""A command, run in this process, and how it ends."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from quantpress.cli import app

__all__ = ["fails", "run"]


def run(command: str, *arguments: str | Path, code: int = 0) -> Result:
    """What it printed; it ends with this code."""
    found = CliRunner().invoke(app, [command, *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found


def fails(command: str, kind: type[Exception], *arguments: str | Path) -> str:
    """The message with which it fails."""
    found = run(command, *arguments, code=1)
    assert isinstance(found.exception, kind), found.output
    return str(found.exception)
