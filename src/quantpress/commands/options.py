"""What the commands share: options and arguments by name, and two ways of reading the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = [
    "AllowPlain",
    "Chat",
    "Chunks",
    "CollectByDefault",
    "Context",
    "Effort",
    "Encoder",
    "GpuLayers",
    "Imatrix",
    "Json",
    "ManyFiles",
    "Model",
    "Moments",
    "Out",
    "Quiet",
    "Remote",
    "Scratch",
    "Split",
    "Text",
    "Threads",
]

Model = Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A GGUF file (of a split one, the first part).")]
Imatrix = Annotated[
    Path | None, typer.Option("--imatrix", metavar="FILE", help="Importance matrix, GGUF or legacy .dat.")
]
Moments = Annotated[
    Path | None,
    typer.Option(
        "--moments", metavar="FILE", help="Second moments, for --effort compensated; default: beside the imatrix."
    ),
]
AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="With --effort compensated: encode what has no moments plainly.")
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
    str,
    typer.Option(
        "--effort",
        metavar="NAME",
        help="Time spent on a smaller error: fast, normal, best; compensated: with second moments.",
    ),
]
Split = Annotated[
    float, typer.Option("--split-gb", metavar="GB", min=0.001, help="Split files larger than this, in GB (10^9 bytes).")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")]
Remote = Annotated[bool, typer.Option("--remote", help="It is a repository on the Hub: ORG/NAME or ORG/NAME@REVISION.")]
Scratch = Annotated[
    Path | None, typer.Option("--scratch", metavar="FOLDER", help="Where the base's distributions wait.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class CollectByDefault(TyperGroup):
    """`imatrix MODEL …` means `imatrix collect MODEL …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["collect", *args]
        return super().parse_args(ctx, args)


class ManyFiles(TyperCommand):
    """`--calibration A B` means `--calibration A --calibration B`; the source comes first, or after them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click.Command."""
        expanded: list[str] = []
        values: list[str] | None = None  # of the option that is being read
        option = ""
        source_last = next((arg for arg in args if arg != "--remote"), "").startswith("-")
        for arg in [*args, "--"]:
            if values is not None and not arg.startswith("-"):
                values.append(arg)
                continue
            if values is not None:
                source = values[1:][-1:] if source_last and len(values) > 1 else []
                files = values[: len(values) - len(source)]
                expanded += [word for file in files for word in (option, file)] + source
            option, values = arg, [] if arg in ("--calibration", "--evaluation") else None
            expanded += [arg] if values is None else []
        return super().parse_args(ctx, expanded[:-1])
