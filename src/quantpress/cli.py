"""The command line: parse, call the function of the same name (which is why the imports are inside), print.

Exit codes: 0 done; 1 an error of the system that has no other code; 2 unusable input or arguments; 3 the output cannot
be written; 4 llama.cpp failed; 130 interrupted. An error is one message on standard error, never a traceback.
"""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from quantpress import printing
from quantpress.errors import QuantpressError
from quantpress.options import (
    Chat,
    Chunks,
    CollectByDefault,
    Context,
    Effort,
    Encoder,
    GpuLayers,
    Imatrix,
    Json,
    ManyFiles,
    Model,
    Out,
    Quiet,
    Remote,
    Scratch,
    Split,
    Text,
    Threads,
)
from quantpress.plan_command import plan
from quantpress.progress import for_terminal

__all__ = ["app", "main"]

_COMMA = re.compile(r",(?!\s*\w+=)")  # between recipes, not between the settings of one (MP:fraction=0.2,top=Q4_K)
_SYSTEM = 1
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


app = typer.Typer(
    help="Turn a checkpoint into a measured release of GGUF files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
imatrix_app = typer.Typer(cls=CollectByDefault, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(imatrix_app, name="imatrix", help="Collect, merge and look at importance matrices.")


@app.command()
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


@imatrix_app.command("collect")
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


@imatrix_app.command("merge")
def imatrix_merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Importance matrices of one model.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Add importance matrices up, each weighted by the tokens that it saw."""
    from quantpress.imatrix import merge

    printing.paths([merge(files, out)], as_json)


@imatrix_app.command("show")
def imatrix_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An importance matrix.")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model it is for: shows what is not covered.")
    ] = None,
    min_tokens: Annotated[int, typer.Option("--min-tokens", metavar="N", help="Fewer than this is too few.")] = 512,
    as_json: Json = False,
) -> None:
    """Show statistics a tensor, coverage, tensors and experts that saw too few tokens."""
    from quantpress.imatrix import show

    found = show(file, model=model, min_tokens=min_tokens)
    printing.json_or(printing.imatrix, found, as_json)


app.command()(plan)


@app.command()
def quantize(
    model: Model,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write MODEL-RECIPE.gguf.")],
    type: Annotated[list[str], typer.Option("--type", metavar="RECIPE", help="A recipe; may be repeated.")] = [],  # noqa: B006
    plan: Annotated[list[Path], typer.Option("--plan", metavar="FILE", help="A plan.json; may be repeated.")] = [],  # noqa: B006
    imatrix: Imatrix = None,
    encoder: Encoder = "quantpress",
    effort: Effort = "normal",
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
        threads=threads,
        split_bytes=int(split_gb * 1e9),
        allow_requantize=allow_requantize,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths(found, as_json)


@app.command()
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


@app.command(cls=ManyFiles)
def release(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_GGUF", help="A checkpoint folder, or a float GGUF.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The release folder.")],
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            metavar="RECIPE,…",
            help="Recipes, auto:3.98bpw, auto:2.40GB, auto:like:Q4_K_M, auto:fit:16GB.",
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="For each auto: variant: 10m, 90s, 2h or a number of probes; 0: none.")
    ] = "10m",
    calibration: Annotated[
        list[Path],
        typer.Option("--calibration", metavar="FILE", help="Text for the imatrix; may be repeated."),
    ] = [],  # noqa: B006
    evaluation: Annotated[
        list[Path], typer.Option("--evaluation", metavar="FILE", help="Text to measure on; may be repeated.")
    ] = [],  # noqa: B006
    chat: Chat = False,
    encoder: Encoder = "quantpress",
    effort: Effort = "normal",
    context: Context = 512,
    calibration_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens to sample without --calibration.")
    ] = 64 * 512,
    evaluation_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens to sample without --evaluation.")
    ] = 32 * 512,
    evaluation_chunks: Annotated[
        int, typer.Option(metavar="N", min=1, help="Measure on at most so many windows.")
    ] = 128,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the sampled text.")] = 0,
    split_gb: Split = 50,
    repository: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Of the release on the Hub, for its commands and links.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Of the checkpoint on the Hub, for the card.")
    ] = None,
    remote: Remote = False,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make everything: convert, calibrate, quantize, measure, describe. Run again, it goes on where it was."""
    from quantpress.release import CARD_VARIANTS, release

    page = release(
        source,
        out=out,
        variants=_COMMA.split(variants) if variants else CARD_VARIANTS,
        budget=budget,
        calibration=calibration,
        evaluation=evaluation,
        chat=chat,
        encoder=encoder,
        effort=effort,
        context=context,
        calibration_tokens=calibration_tokens,
        evaluation_tokens=evaluation_tokens,
        evaluation_chunks=evaluation_chunks,
        seed=seed,
        split_bytes=int(split_gb * 1e9),
        repository=repository,
        base_model=base_model,
        remote=remote,
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([page], as_json)


@app.command()
def inspect(file: Model, as_json: Json = False) -> None:
    """Show metadata, tensors, type histogram and bits a weight of a GGUF file."""
    from quantpress.inspection import inspect

    printing.json_or(printing.inspection, inspect(file), as_json)


@app.command()
def info(as_json: Json = False) -> None:
    """Show versions, the instruction set, the engine's build."""
    from quantpress.inspection import info

    printing.json_or(printing.info, info(), as_json)


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
    """Whether a command, interrupted, keeps what it has done: a release, a matrix, measurements, what the Hub sent."""
    options = {argument.partition("=")[0] for argument in arguments}
    measures = arguments[:1] == ["plan"] and "--type" not in options and bool(options & {"--out", "--sensitivity"})
    collects = arguments[:1] == ["imatrix"] and arguments[1] not in ("merge", "show")
    return arguments[:1] == ["release"] or "--remote" in arguments or collects or measures


if __name__ == "__main__":
    main()
