"""`quantpress release`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import (
    AllowPlain,
    Chat,
    Context,
    Effort,
    Encoder,
    GpuLayers,
    Json,
    Quiet,
    Remote,
    Split,
    Threads,
)
from quantpress.progress import for_terminal

__all__ = ["release"]

_COMMA = re.compile(r",(?!\s*\w+=)")  # between recipes, not between the settings of one (MP:fraction=0.2,top=Q4_K)


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
    allow_plain: AllowPlain = False,
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
    texts: Annotated[bool, typer.Option("--texts/--no-texts", help="Copy given texts into the release folder.")] = True,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Measure the speed of each file here.")] = True,
    remote: Remote = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="For a small disk: send the files to --repository and remove them as they come."),
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="With --stream: make that repository private.")] = False,
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
        allow_plain=allow_plain,
        context=context,
        calibration_tokens=calibration_tokens,
        evaluation_tokens=evaluation_tokens,
        evaluation_chunks=evaluation_chunks,
        seed=seed,
        split_bytes=int(split_gb * 1e9),
        repository=repository,
        base_model=base_model,
        texts=texts,
        bench=bench,
        remote=remote,
        stream=stream,
        private=private,
        threads=threads,
        gpu_layers=gpu_layers,
        progress=for_terminal(quiet=quiet),
    )
    printing.paths([page], as_json)
