"""What can go wrong, as a tree. A message names the file, the field, what was expected and found, and what to do.

QuantpressError                exit code 1
├── InputError                 2   something that the user gave is not usable
│   ├── GGUFError                  a malformed or hostile GGUF file
│   ├── CheckpointError            a folder that is no checkpoint we can convert
│   ├── ImatrixError               an importance matrix that is malformed or of another model
│   ├── PlanError                  a recipe, type or plan that cannot be applied
│   └── TextError                  text that is unreadable or too short
├── HubError                   1   the Hugging Face Hub cannot be reached
├── OutputError                3   nothing can be written there
│   └── DiskFullError              not enough space: says how much is needed
└── EngineError                4   llama.cpp refused, crashed or was killed
    └── CrashError                 its process ended by itself
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = [
    "CheckpointError",
    "CrashError",
    "DiskFullError",
    "EngineError",
    "GGUFError",
    "HubError",
    "ImatrixError",
    "InputError",
    "OutputError",
    "PlanError",
    "QuantpressError",
    "TextError",
]


class QuantpressError(Exception):
    """Base of every error that quantpress raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross processes whole, although their constructors take the parts of a message."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[QuantpressError], arguments: tuple[Any, ...], parts: dict[str, Any]) -> QuantpressError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(parts)
    return error


class InputError(QuantpressError):
    """`path: field: expected …, found …; hint`, with the parts that are known."""

    exit_code = 2

    def __init__(
        self,
        path: str | Path | None,
        field: str,
        *,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.path, self.field, self.expected, self.found, self.hint = path, field, expected, found, hint
        where = f"{path}: {field}" if path is not None else field
        sides = [f"{side} {value}" for side, value in (("expected", expected), ("found", found)) if value is not None]
        message = f"{where}: {', '.join(sides)}" if sides else where
        super().__init__(f"{message}. {hint}" if hint else message)


class GGUFError(InputError):
    """A malformed or hostile GGUF file."""


class CheckpointError(InputError):
    """A folder that is no checkpoint we can convert."""


class ImatrixError(InputError):
    """An importance matrix that is malformed or belongs to another model."""


class PlanError(InputError):
    """A recipe, a type or a plan that cannot be applied."""


class TextError(InputError):
    """Text that is unreadable or too short."""


class HubError(QuantpressError):
    """The Hugging Face Hub cannot be reached, or the connection to it was lost."""


class OutputError(QuantpressError):
    """The output cannot be written."""

    exit_code = 3


class DiskFullError(OutputError):
    """There is not enough space; `needed` and `free` are bytes."""

    def __init__(self, path: str | Path, needed: int, free: int) -> None:
        self.path, self.needed, self.free = path, needed, free
        super().__init__(
            f"{path}: not enough disk space: {needed:,} bytes needed, {free:,} free. "
            f"Free {max(0, needed - free):,} bytes or choose another folder"
        )


class EngineError(QuantpressError):
    """llama.cpp refused, crashed or was killed; the message ends with its last log lines."""

    exit_code = 4


class CrashError(EngineError):
    """The process of llama.cpp ended by itself: a crash, or a kill from outside."""
