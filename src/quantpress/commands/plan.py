"""`quantpress plan`: by a recipe, or by a size, for which the types are found.

One command for both, because what comes out is the same: a plan, its exact size, a file that `quantize` takes. Options
of the one that are given with the other are refused: none is silently without effect.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantpress.commands import printing
from quantpress.commands.options import Chat, Effort, Encoder, Imatrix, Json, Model, Moments, Quiet, Scratch, Threads
from quantpress.progress import for_terminal

if TYPE_CHECKING:
    from quantpress.plan import Plan

__all__ = ["plan"]

_BY_RECIPE = ("tensor_types",)
_BY_SIZE = (
    "text held_out chat budget avoid floor tie uncovered encoder effort moments sensitivity scratch threads".split()
)
_OF_FIT = ("context", "kv")

Recipe = Annotated[
    str | None,
    typer.Option("--type", metavar="RECIPE", help="A recipe: Q4_K_M, IQ3_M, Q4_K_L, MP, MP:fraction=0.2 …"),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="BYTES", help="The best file of at most so many bytes: 2.40GB, 500MB."),
]
BitsPerWeight = Annotated[
    float | None,
    typer.Option("--bpw", metavar="BITS", min=0.01, help="The best file of at most so many bits a weight: 3.98."),
]
Like = Annotated[
    str | None, typer.Option("--like", metavar="RECIPE", help="The best file that is no larger than this recipe's.")
]
Fit = Annotated[
    str | None,
    typer.Option("--fit", metavar="MEMORY", help="The best file that runs in so much memory, context included: 16GB."),
]
FitContext = Annotated[int, typer.Option("--context", metavar="N", min=1, help="Tokens of context, for --fit.")]
CacheType = Annotated[str, typer.Option("--kv", metavar="TYPE", help="Type of the KV cache, for --fit: f16, q8_0 …")]
TensorTypes = Annotated[
    Path | None,
    typer.Option("--tensor-types", metavar="FILE", help="A file as for llama-quantize; overrides the recipe."),
]
SearchText = Annotated[
    list[Path], typer.Option("--text", metavar="FILE", help="Text to measure on while searching; may be repeated.")
]
HeldOut = Annotated[
    list[Path],
    typer.Option(
        "--held-out",
        metavar="FILE",
        help="Other text, to compare plan and recipe on; may be repeated. Default: the model's own.",
    ),
]
Budget = Annotated[
    str,
    typer.Option("--budget", metavar="TIME", help="For measuring: 10m, 90s, 2h or a number of probes; 0: none."),
]
Avoid = Annotated[
    list[str],
    typer.Option("--avoid", metavar="TYPE,…", help="Types or families never to use (iq, k, legacy), or PATTERN:TYPE."),
]
Floor = Annotated[
    list[str], typer.Option("--floor", metavar="PATTERN=TYPE", help="At least that type's bits; may be repeated.")
]
Tie = Annotated[
    list[str], typer.Option("--tie", metavar="attn_q+attn_k", help="Share a type in each layer; may be repeated.")
]
Uncovered = Annotated[
    str,
    typer.Option("--uncovered", metavar="TYPE", help="The least type of tensors that the imatrix does not cover."),
]
Sensitivity = Annotated[
    Path | None,
    typer.Option(
        "--sensitivity",
        metavar="FILE",
        help="Keep what is measured here, for the next plan; default with --out: its name.sensitivity.json beside it.",
    ),
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw which tensor has which type.")]
PlanFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the plan here, and FILE's name.tensor_types.txt beside it."),
]


def plan(
    given: typer.Context,
    model: Model,
    type: Recipe = None,
    size: Size = None,
    bpw: BitsPerWeight = None,
    like: Like = None,
    fit: Fit = None,
    context: FitContext = 4096,
    kv: CacheType = "f16",
    imatrix: Imatrix = None,
    tensor_types: TensorTypes = None,
    text: SearchText = [],  # noqa: B006
    held_out: HeldOut = [],  # noqa: B006
    chat: Chat = False,
    budget: Budget = "10m",
    avoid: Avoid = [],  # noqa: B006
    floor: Floor = [],  # noqa: B006
    tie: Tie = [],  # noqa: B006
    uncovered: Uncovered = "Q4_K",
    encoder: Encoder = "quantpress",
    effort: Effort = "normal",
    moments: Moments = None,
    sensitivity: Sensitivity = None,
    scratch: Scratch = None,
    plot: Plot = None,
    out: PlanFile = None,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Plan a file without quantizing: the types of a recipe, or the best ones for a size; the size to the byte."""
    progress = for_terminal(quiet=quiet)
    target = _target(given, type, {"size": size, "bpw": bpw, "like": like, "fit": fit})
    found: Any
    if target is None:
        from quantpress.plan import plan

        found = planned = plan(model, type=str(type), imatrix=imatrix, tensor_types=tensor_types, progress=progress)
    else:
        from quantpress.allocation import Constraints, allocate, parse_spend, parse_target

        rules = {"avoid": avoid, "floors": floor, "ties": tie}
        found = allocate(
            model,
            parse_target(target, context=context, cache_type=kv),
            imatrix=imatrix,
            text=text,
            held_out=held_out,
            chat=chat,
            budget=parse_spend(budget),
            constraints=Constraints.parse(
                **{key: ",".join(items) for key, items in rules.items()}, uncovered=uncovered
            ),
            encoder=encoder,
            effort=effort,
            moments=moments,
            sensitivity=sensitivity or (out and out.with_suffix(".sensitivity.json")),
            scratch=scratch,
            threads=threads,
            progress=progress,
        )
        planned = found.plan
    if out is not None:
        found.write(out)
    if plot is not None:
        _draw(planned, model, plot)
    printing.json_or(printing.plan if target is None else printing.allocation, found, as_json)


def _target(given: typer.Context, type: str | None, sizes: dict[str, Any]) -> str | None:
    """The size that is asked for, as `parse_target` reads it; None for a recipe. Anything else is a usage error."""
    asked = [name for name, value in {"type": type, **sizes}.items() if value is not None]
    if len(asked) != 1:
        found = " and ".join(f"--{name}" for name in asked) or "none"
        given.fail(f"Give one of --type, --size, --bpw, --like and --fit; found {found}.")
    [kind] = asked
    for names, allowed, where in (
        (_BY_RECIPE, kind == "type", "--type"),
        (_BY_SIZE, kind != "type", "--size, --bpw, --like and --fit"),
        (_OF_FIT, kind == "fit", "--fit"),
    ):
        if not allowed and (lost := [name for name in names if _was_given(given, name)]):
            given.fail(f"--{lost[0].replace('_', '-')} goes with {where}, not with --{kind}.")
    if _was_given(given, "held_out") and not _was_given(given, "text"):
        given.fail("--held-out is to compare what a search has found: give it --text to search on.")
    if kind == "bpw":
        return f"{sizes[kind]:.6f}".rstrip("0").rstrip(".") + "bpw"
    if kind == "size":
        return str(sizes[kind])
    return None if kind == "type" else f"{kind}:{sizes[kind]}"


def _was_given(given: typer.Context, name: str) -> bool:
    source = given.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _draw(found: Plan, model: Path, path: Path) -> None:
    from quantpress import gguf
    from quantpress.plots import plan_map

    with gguf.read(model) as source:
        plan_map(found, path, model=source)
