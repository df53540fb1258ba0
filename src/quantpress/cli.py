"""The command line: parse, call the function of the same name (which is why the imports are inside), print.

Exit codes: 0 done; 1 an error of ours; 2 unusable input or arguments; 3 the output cannot be written; 4 llama.cpp
failed; 130 interrupted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quantpress import printing
from quantpress.errors import QuantpressError
from quantpress.progress import for_terminal

__all__ = ["app", "main"]


_COMMA = re.compile(r",(?!\s*\w+=)")  # between recipes, not between the settings of one (MP:fraction=0.2,top=Q4_K)
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


class _CollectByDefault(TyperGroup):
    """`imatrix MODEL …` means `imatrix collect MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["collect", *args]
        return super().parse_args(ctx, args)


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
Imatrix = Annotated[Path | None, typer.Option("--imatrix", help="Importance matrix, GGUF or legacy .dat.")]
Text = Annotated[list[Path], typer.Option("--text", help="Text file; may be given several times.")]
Chat = Annotated[bool, typer.Option("--chat", help="Render the text through the model's chat template.")]
Chunks = Annotated[int | None, typer.Option("--chunks", min=1, help="Use at most so many windows of text.")]
Context = Annotated[int, typer.Option("--context", min=32, help="Tokens a window.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default all.")]
GpuLayers = Annotated[int, typer.Option("--gpu-layers", help="Layers to keep on a GPU; -1: all.")]
Encoder = Annotated[str, typer.Option("--encoder", help="Who encodes the weights.")]
Split = Annotated[float, typer.Option("--split-gb", min=0.001, help="Split files larger than this, in GB (10^9).")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face checkpoint folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf")],
    type: Annotated[str, typer.Option("--type", help="BF16, F16 or F32.")] = "BF16",
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
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
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
    files: Annotated[list[Path], typer.Argument(help="Importance matrices of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    as_json: Json = False,
) -> None:
    """Add importance matrices up, each weighted by the tokens that it saw."""
    from quantpress.imatrix import merge

    printing.paths([merge(files, out)], as_json)


@imatrix_app.command("show")
def imatrix_show(
    file: Annotated[Path, typer.Argument(help="An importance matrix.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="The model it is for: shows what is not covered.")
    ] = None,
    min_tokens: Annotated[int, typer.Option("--min-tokens", help="Fewer than this is too few.")] = 512,
    as_json: Json = False,
) -> None:
    """Statistics a tensor, coverage, tensors and experts that saw too few tokens."""
    from quantpress.imatrix import show

    found = show(file, model=model, min_tokens=min_tokens)
    printing.json_or(printing.imatrix, found, as_json)


@app.command()
def plan(
    model: Model,
    type: Annotated[str, typer.Option("--type", help="A recipe: Q4_K_M, IQ3_M, Q4_K_L, MP, MP:fraction=0.2 …")],
    imatrix: Imatrix = None,
    tensor_types: Annotated[
        Path | None, typer.Option("--tensor-types", help="A file as for llama-quantize; overrides the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write plan.json and plan.tensor_types.txt.")] = None,
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
    out: Annotated[Path, typer.Option("--out", help="The folder to write DIR/<model>-<type>.gguf to.")],
    type: Annotated[list[str], typer.Option("--type", help="A recipe; may be given several times.")] = [],  # noqa: B006
    plan: Annotated[list[Path], typer.Option("--plan", help="A plan.json; may be given several times.")] = [],  # noqa: B006
    imatrix: Imatrix = None,
    encoder: Encoder = "ggml",
    split_gb: Split = 50,
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
        threads=threads,
        split_bytes=int(split_gb * 1e9),
        progress=for_terminal(quiet=quiet),
    )
    printing.paths(found, as_json)


@app.command()
def evaluate(
    base: Annotated[Path, typer.Argument(metavar="BASE.gguf", help="The unquantized model.")],
    quants: Annotated[list[Path], typer.Argument(metavar="QUANT.gguf…", help="The files to measure against it.")],
    text: Text,
    context: Context = 512,
    chunks: Chunks = None,
    chat: Chat = False,
    scratch: Annotated[Path | None, typer.Option("--scratch", help="Folder for the base's distributions.")] = None,
    scratch_gb: Annotated[float, typer.Option("--scratch-gb", help="Use at most so much of it, in GB.")] = 20,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Perplexity, and KL divergence from the base."""
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


@app.command()
def release(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_GGUF", help="A checkpoint folder, or a float GGUF.")],
    out: Annotated[Path, typer.Option("--out", help="The release folder.")],
    variants: Annotated[
        str | None, typer.Option("--variants", help="Recipes, comma-separated; default: see the README.")
    ] = None,
    calibration: Annotated[list[Path], typer.Option("--calibration", help="Text for the imatrix.")] = [],  # noqa: B006
    evaluation: Annotated[list[Path], typer.Option("--evaluation", help="Text to measure on.")] = [],  # noqa: B006
    chat: Chat = False,
    encoder: Encoder = "ggml",
    context: Context = 512,
    calibration_tokens: Annotated[int, typer.Option(help="Tokens to sample without --calibration.")] = 64 * 512,
    evaluation_tokens: Annotated[int, typer.Option(help="Tokens to sample without --evaluation.")] = 32 * 512,
    evaluation_chunks: Annotated[int, typer.Option(min=1, help="Measure on at most so many windows.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the sampled text.")] = 0,
    split_gb: Split = 50,
    repository: Annotated[str | None, typer.Option(help="user/name on the Hub, for the card's commands.")] = None,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Everything: convert, calibrate, quantize, measure, describe. Run again, it goes on where it was."""
    from quantpress.release import CARD_VARIANTS, release

    page = release(
        source,
        out=out,
        variants=_COMMA.split(variants) if variants else CARD_VARIANTS,
        calibration=calibration,
        evaluation=evaluation,
        chat=chat,
        encoder=encoder,
        context=context,
        calibration_tokens=calibration_tokens,
        evaluation_tokens=evaluation_tokens,
        evaluation_chunks=evaluation_chunks,
        seed=seed,
        split_bytes=int(split_gb * 1e9),
        repository=repository,
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([page], as_json)


@app.command()
def inspect(file: Model, as_json: Json = False) -> None:
    """Metadata, tensors, type histogram and bits a weight of a GGUF file."""
    from quantpress.inspection import inspect

    printing.json_or(printing.inspection, inspect(file), as_json)


@app.command()
def info(as_json: Json = False) -> None:
    """Versions, the instruction set, the engine's build."""
    from quantpress.inspection import info

    printing.json_or(printing.info, info(), as_json)


def main() -> None:
    """Run the command line; an error is one message and an exit code, never a traceback."""
    try:
        app()
    except QuantpressError as error:
        print(f"quantpress: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            print("quantpress: interrupted; the same command goes on where it was", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
