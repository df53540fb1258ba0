"""A finding: what is wrong with which file of a release, or worth knowing about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity", "error", "note", "warning"]

Severity = Literal["error", "warning", "note"]

_RANKS = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """`file` is relative to the release folder.

    An error must not be published; a warning will surprise somebody; a note is a fact that may be as it should be.
    """

    severity: Severity
    file: str
    what: str
    hint: str = ""

    @property
    def rank(self) -> int:
        """0 for an error, the most severe."""
        return _RANKS[self.severity]


def error(file: str, what: str, hint: str = "") -> Finding:
    """A finding that must not be published."""
    return Finding("error", file, what, hint)


def warning(file: str, what: str, hint: str = "") -> Finding:
    """A finding that will surprise somebody."""
    return Finding("warning", file, what, hint)


def note(file: str, what: str, hint: str = "") -> Finding:
    """A fact."""
    return Finding("note", file, what, hint)
