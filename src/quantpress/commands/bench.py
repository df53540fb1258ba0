"""`quantpress bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quantpress.commands import printing
from quantpress.commands.options import GpuLayers, Json, Quiet, Threads
from quantpress.errors import InputError
from quantpress.progress import for_terminal

if TYPE_CHECKING:
    from quantpress.benchmark import Benchmark

__all__ = ["bench"]


def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.gguf", help="The files to measure.")],
    prompts: Annotated[
        str, typer.Option("--prompt", "-p", metavar="N,…", help="Tokens of the prompts to read; empty: none.")
    ] = "512,1024,2048",
    generations: Annotated[
        str, typer.Option("--generate", "-n", metavar="N,…", help="Numbers of tokens to write; empty: none.")
    ] = "128,256,512",
    repeats: Annotated[int, typer.Option("--repeats", "-r", metavar="N", help="Runs of each test.")] = 5,
    threads: Threads = None,
    gpu_layers: GpuLayers = 0,
    no_repack: Annotated[bool, typer.Option("--no-repack", help="Keep the weights as they are in the file.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the results, as JSON.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the speed of prompts and of generation, as llama-bench does."""
    from quantpress.benchmark import benchmark
    from quantpress.files import make_folder, write_json

    if out is not None:
        make_folder(out.parent)  # before the measurements rather than after them
    found = benchmark(
        files,
        prompts=_numbers(prompts, "--prompt"),
        generations=_numbers(generations, "--generate"),
        repeats=repeats,
        threads=threads,
        gpu_layers=gpu_layers,
        repack=not no_repack,
        progress=for_terminal(quiet=quiet),
    )
    if out is not None:
        write_json(out, found.to_dict())
    printing.json_or(_show, found, as_json)


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")] if text.strip() else []
    except ValueError:
        raise InputError(None, option, expected="numbers of tokens, such as 512,1024", found=repr(text)) from None


def _show(found: Benchmark) -> None:
    """A line a test, then the machine."""
    rows = []
    for speed in found.speeds:
        percent = found.percentages(speed)
        for test in speed.tests:
            share = f"{percent[test.test]:7.1f} %" if percent else ""
            numbers = (f"{test.mean:10.2f}", f"± {test.deviation:.2f}", share)
            rows.append((speed.file, test.test, *numbers, ", ".join(speed.layouts) or "no"))
    columns = ("file", "test", "tokens/s", "", "of Q4_0" if found.reference else "", "repacked")
    printing.table(columns, rows)
    about = found.machine
    layers = f", {about['gpu_layers']} layers on the GPU" if about["backend"] != "CPU" else ""
    print(f"{about['backend']}: {about['cpu']}, {about['threads']} threads{layers}; {' '.join(about['features'])}")
