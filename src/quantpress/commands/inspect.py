"""`quantpress inspect` and `quantpress info`."""

from __future__ import annotations

from quantpress.commands import printing
from quantpress.commands.options import Json, Model

__all__ = ["info", "inspect"]


def inspect(file: Model, as_json: Json = False) -> None:
    """Show metadata, tensors, type histogram and bits a weight of a GGUF file."""
    from quantpress.inspection import inspect

    printing.json_or(printing.inspection, inspect(file), as_json)


def info(as_json: Json = False) -> None:
    """Show versions, the instruction set, the engine's build."""
    from quantpress.inspection import info

    printing.json_or(printing.info, info(), as_json)
