"""Results as tables for a terminal, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from quantpress.allocation import Allocation, Gate
    from quantpress.evaluate import Evaluation
    from quantpress.imatrix import Audit
    from quantpress.moments import InputSummary
    from quantpress.plan import Plan

__all__ = [
    "allocation",
    "evaluations",
    "imatrix",
    "info",
    "inspection",
    "json_or",
    "moments",
    "paths",
    "plan",
    "table",
]

Result = TypeVar("Result")
_PIPE_WIDTH = 240  # of a table that goes to a pipe or a file


def json_or(show: Callable[[Result], None], result: Result, as_json: bool) -> None:
    """Print a result as JSON, or as `show` does."""
    if not as_json:
        show(result)
        return
    print(json.dumps(_plain(result), indent=2))


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(item) for item in result]
    if hasattr(result, "to_dict"):
        return result.to_dict()
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: the first column to the left, numbers to the right. Cells are text that anyone wrote: never markup."""
    from rich.console import Console  # here, because it takes a while and not every command prints a table
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numbers = rows and isinstance(rows[0][i], int | float)
        shown.add_column(column, justify="right" if numbers else "left", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(markup=False, emoji=False, highlight=False, width=width).print(shown)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    return text if text.isprintable() else repr(text)  # a line break or an escape sequence


def paths(found: Sequence[Path], as_json: bool) -> None:
    """A file that was written a line."""
    print(json.dumps([str(path) for path in found], indent=2) if as_json else "\n".join(map(str, found)))


def plan(found: Plan) -> None:
    """The types of a plan, its size and bits a weight."""
    table(("tensor", "type"), list(found.tensors.items()))
    print(f"{found.recipe}: {found.bytes:,} bytes, {found.bits_per_weight:.4f} bits a weight")


def allocation(found: Allocation) -> None:
    """The plan, how it was found, and what it is worth beside its reference."""
    plan(found.plan)
    print(f"{found.limit:,} bytes were allowed; the knapsack's solution is within {found.gap:.2g} of the best sum")
    if found.measured is None:
        print("not measured: planned from errors, and earlier probes where there are any")
    else:
        measured = f"{found.probes:,} probes; KLD on the search text {found.measured:.4g}"
        print(f"{measured} measured, {found.predicted:.4g} predicted")
    if found.gate is not None:
        print()
        _gate(found, found.gate)


def _gate(found: Allocation, gate: Gate) -> None:
    sides = [(found.plan.recipe, gate.plan)]
    if gate.reference is not None:
        sides.append((f"{found.reference}, {found.reference_bytes or 0:,} bytes", gate.reference))
    rows = [
        (
            name, row.kld_mean, f"± {row.kld_error:.2g}", row.kld_p99, row.kld_p999, f"{row.same_top:.2%}",
            row.perplexity,
        )
        for name, row in sides
    ]  # fmt: skip
    columns = ("held-out text", "KLD", "", "99 %", "99.9 %", "same top", "perplexity")
    table(columns, rows)
    if gate.reference is None:
        print("no stock mix can be made that is as small: there is nothing to compare with")
    elif gate.passed:
        print(f"{gate.plan.kld_mean / gate.reference.kld_mean:.2f} of the divergence of {found.reference}: kept")
    else:
        print(f"no better than {found.reference}, whose types are kept, unless the constraints forbid them")


def evaluations(found: Sequence[Evaluation]) -> None:
    """A line a file."""
    rows = [
        (
            row.file, row.perplexity, f"± {row.perplexity_error:.4f}", row.kld_mean, f"± {row.kld_error:.2g}",
            row.kld_p99, row.kld_max, f"{row.same_top:.2%}", f"{row.rms_dp:.2%}",
        )
        for row in found
    ]  # fmt: skip
    table(("file", "perplexity", "", "KLD", "", "99 %", "max", "same top", "RMS Δp"), rows)


def imatrix(found: Audit) -> None:
    """Statistics a tensor, then what saw too few tokens and what is not covered."""
    columns = ("tensor", "tokens", "columns", "sum a²", "mean", "max", "std", "active", "entropy", "zd", "cos sim")
    rows = [
        (
            s.name, s.tokens, s.columns, s.sum, s.mean, s.max, s.std, f"{s.active:.2%}", f"{s.entropy_share:.2%}",
            f"{s.zd:.2%}", "" if s.cossim is None else f"{s.cossim:.4f}",
        )
        for s in found.statistics.values()
    ]  # fmt: skip
    table(columns, rows)
    for sparse in found.sparse:
        print(f"{sparse.name}, matrix {sparse.matrix}: {sparse.tokens:,} tokens, fewer than {found.min_tokens:,}")
    for name in found.missing or ():
        print(f"{name}: not covered")
    if not found.sparse and not found.missing:
        print("every matrix saw enough tokens" + ("" if found.missing is None else "; every weight is covered"))


def moments(found: list[InputSummary]) -> None:
    """A line an input; then the matrices that saw fewer tokens than they have columns."""
    columns = ("input", "shared with", "columns", "matrices", "tokens", "tokens a column", "samples", "")
    rows = [
        (
            s.input, ", ".join(name for name in s.weights if name != s.input), s.columns, s.matrices, s.tokens,
            s.tokens_per_column, s.samples, f"{len(s.singular)} with too few tokens" if s.singular else "",
        )
        for s in found
    ]  # fmt: skip
    table(columns, rows)
    for s in found:
        if s.blocks > 1:
            print(f"{s.input}: {s.blocks} diagonal blocks only")
    few = [f"{s.input}, matrix {matrix}" for s in found for matrix in s.singular]
    print(
        "\n".join(f"{name}: fewer tokens than columns" for name in few) or "every matrix saw more tokens than columns"
    )


def inspection(found: dict[str, Any]) -> None:
    """Metadata, tensors, types."""
    table(("key", "value"), [(key, _short(value)) for key, value in found["metadata"].items()])
    print()
    shapes = [(t["name"], t["type"], " × ".join(map(str, t["shape"]))) for t in found["tensors"]]
    table(("tensor", "type", "shape"), shapes)
    print()
    types = [
        (name, *(counts[key] for key in ("tensors", "weights", "bytes"))) for name, counts in found["types"].items()
    ]
    table(("type", "tensors", "weights", "bytes"), types)
    parts = f" in {len(found['parts'])} parts" if len(found["parts"]) > 1 else ""
    print(
        f"\n{found['file']}: GGUF {found['version']}, {found['bytes']:,} bytes{parts}, {found['weights']:,} weights, "
        f"{found['bits_per_weight']:.4f} bits a weight"
    )


def info(found: dict[str, Any]) -> None:
    """Versions and builds."""
    engine = found["engine"]
    print(f"quantpress {found['version']}")
    print(f"instruction set: {found['isa']} (available: {', '.join(found['isas'])})")
    print(f"llama.cpp {engine['llama_cpp']} in llama-cpp-python {engine['llama_cpp_python']}")
    print(f"  {engine['system']}")
    print(f"  GPU: {'yes' if engine['gpu_offload'] else 'no; the README says how to build for one'}")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['length']:,} values: {', '.join(map(repr, value['first']))}, …"
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}… ({len(text):,} characters)"
