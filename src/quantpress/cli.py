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
from typer.core import TyperCommand, TyperGroup

from quantpress import printing
from quantpress.errors import QuantpressError
from quantpress.progress import for_terminal

__all__ = ["app", "main"]


_COMMA = re.compile(r",(?!\s*\w+=)")  # between recipes, not between the settings of one (MP:fraction=0.2,top=Q4_K)
_SYSTEM = 1
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


class _CollectByDefault(TyperGroup):
    """`imatrix MODEL …` means `imatrix collect MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["collect", *args]
        return super().parse_args(ctx, args)


class _ManyFiles(TyperCommand):
    """`--calibration A B` means `--calibration A --calibration B`; the source comes first, or after them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        expanded: list[str] = []
        values: list[str] | None = None  # of the option that is being read
        option = ""
        for arg in [*args, "--"]:
            if values is not None and not arg.startswith("-"):
                values.append(arg)
                continue
            if values is not None:
                source = values[1:][-1:] if args[0].startswith("-") and len(values) > 1 else []
                files = values[: len(values) - len(source)]
                expanded += [word for file in files for word in (option, file)] + source
            option, values = arg, [] if arg in ("--calibration", "--evaluation") else None
            expanded += [arg] if values is None else []
        return super().parse_args(ctx, expanded[:-1])


app = typer.Typer(
    help="Turn a checkpoint into a measured release of GGUF files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
imatrix_app = typer.Typer(cls=_CollectByDefault, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(imatrix_app, name="imatrix", help="Collect, merge and look at importance matrices.")

Model = Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A GGUF file (of a split one, the first part).")]
Imatrix = Annotated[
    Path | None, typer.Option("--imatrix", metavar="FILE", help="Importance matrix, GGUF or legacy .dat.")
]
Text = Annotated[list[Path], typer.Option("--text", metavar="FILE", help="Text file; may be repeated.")]
Chat = Annotated[bool, typer.Option("--chat", help="Render the text through the model's chat template.")]
Chunks = Annotated[
    int | None, typer.Option("--chunks", metavar="N", min=1, help="Use at most so many windows of text.")
]
Context = Annotated[int, typer.Option("--context", metavar="N", min=32, help="Tokens a window.")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; default all.")]
GpuLayers = Annotated[int, typer.Option("--gpu-layers", metavar="N", help="Layers to keep on a GPU; -1: all.")]
Encoder = Annotated[
    str,
    typer.Option("--encoder", metavar="NAME", help="Who encodes: quantpress, or ggml (the bytes of llama-quantize)."),
]
Effort = Annotated[
    str, typer.Option("--effort", metavar="NAME", help="Time spent on a smaller error: fast, normal or best.")
]
Split = Annotated[
    float, typer.Option("--split-gb", metavar="GB", min=0.001, help="Split files larger than this, in GB (10^9 bytes).")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FOLDER", help="A Hugging Face checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The file to write.")],
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="BF16, F16 or F32.")] = "BF16",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert a checkpoint to a GGUF file in float."""
    from quantpress.convert import convert

    printing.paths([convert(checkpoint, out, type=type, progress=for_terminal(quiet=quiet))], as_json)


@imatrix_app.command("collect")
def imatrix(
    model: Model,
    text: Text,
    out: Out,
    chunks: Chunks = None,
    context: Context = 512,
    process_output: Annotated[bool, typer.Option("--process-output", help="Collect for output.weight too.")] = False,
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


@app.command()
def plan(
    model: Model,
    type: Annotated[
        str, typer.Option("--type", metavar="RECIPE", help="A recipe: Q4_K_M, IQ3_M, Q4_K_L, MP, MP:fraction=0.2 …")
    ],
    imatrix: Imatrix = None,
    tensor_types: Annotated[
        Path | None,
        typer.Option("--tensor-types", metavar="FILE", help="A file as for llama-quantize; overrides the recipe."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the plan here, and FILE's name.tensor_types.txt beside it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the types of a recipe, the exact file size and bits a weight, without quantizing."""
    from quantpress.plan import plan

    found = plan(model, type=type, imatrix=imatrix, tensor_types=tensor_types)
    if out is not None:
        found.write(out)
    printing.json_or(printing.plan, found, as_json)


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
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="FOLDER", help="Where the base's distributions wait.")
    ] = None,
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


@app.command(cls=_ManyFiles)
def release(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_GGUF", help="A checkpoint folder, or a float GGUF.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The release folder.")],
    variants: Annotated[
        str | None, typer.Option("--variants", metavar="RECIPE,…", help="Default: those of the README's list.")
    ] = None,
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
    """Whether a command, interrupted, keeps what it has done: a release, and the collection of a matrix."""
    return arguments[:1] == ["release"] or (arguments[:1] == ["imatrix"] and arguments[1] not in ("merge", "show"))


if __name__ == "__main__":
    main()
