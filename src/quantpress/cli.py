"""The command line: the commands, and how they end.

Exit codes: 0 done; 1 an error of the system that has no other code; 2 unusable input or arguments; 3 the output cannot
be written; 4 llama.cpp failed; 130 interrupted. An error is one message on standard error, never a traceback.
"""

from __future__ import annotations

import io
import signal
import sys
from typing import Any, NoReturn

import typer

from quantpress.commands.bench import bench
from quantpress.commands.check import check
from quantpress.commands.choose import choose
from quantpress.commands.convert import convert
from quantpress.commands.evaluate import evaluate
from quantpress.commands.imatrix import app as imatrix_app
from quantpress.commands.inspect import info, inspect
from quantpress.commands.options import ManyFiles
from quantpress.commands.plan import plan
from quantpress.commands.publish import publish
from quantpress.commands.pull import pull
from quantpress.commands.quantize import quantize
from quantpress.commands.release import release
from quantpress.commands.repair import repair
from quantpress.commands.serve import serve
from quantpress.errors import QuantpressError

__all__ = ["app", "main"]

_SYSTEM = 1
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt

app = typer.Typer(
    help="Turn a checkpoint into a measured release of GGUF files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(convert)
app.add_typer(imatrix_app, name="imatrix", help="Collect, merge and look at importance matrices.")
app.command()(plan)
app.command()(quantize)
app.command()(repair)
app.command()(evaluate)
app.command()(bench)
app.command(cls=ManyFiles)(release)
app.command()(check)
app.command()(choose)
app.command()(publish)
app.command()(pull)
app.command()(serve)
app.command()(inspect)
app.command()(info)


def main() -> None:
    """Run the command line; an error is one message and an exit code, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8, as standard error allows
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except QuantpressError as error:
        _stop(str(error), error.exit_code)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error), _SYSTEM)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            goes_on = "the same command goes on where it was"
            _stop(f"interrupted; {goes_on if _keeps(sys.argv[1:]) else 'nothing half-written is left'}", _INTERRUPTED)
        raise


def _interrupt(number: int, frame: Any) -> NoReturn:
    """SIGTERM ends as Ctrl-C does: the engine stopped, scratch space and half-written files removed."""
    raise KeyboardInterrupt


def _stop(message: str, code: int) -> NoReturn:
    print(f"quantpress: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def _keeps(arguments: list[str]) -> bool:
    """Whether a command, interrupted, keeps what it has done: a release, a matrix, measurements, what came or went."""
    options = {argument.partition("=")[0] for argument in arguments}
    measures = arguments[:1] == ["plan"] and "--type" not in options and bool(options & {"--out", "--sensitivity"})
    collects = arguments[:1] == ["imatrix"] and arguments[1] not in ("merge", "show")
    return arguments[:1] in (["release"], ["publish"], ["pull"]) or "--remote" in arguments or collects or measures


if __name__ == "__main__":
    main()
