"""What keeps odd names from breaking the page: names in text and cells, in addresses, in commands; fences."""

from __future__ import annotations

import re
import shlex
from urllib.parse import quote

__all__ = ["address", "command", "fenced", "plain", "solid"]

_HUB = "https://huggingface.co"
_SPECIAL = re.compile(r"([\\`*\[\]|<~])|(?<![^\W_])(_)|(_)(?![^\W_])")  # an underscore between letters means nothing


def plain(text: str) -> str:
    """Text that Markdown shows as it is, in a cell of a table too."""
    one_line = " ".join(str(text).split())
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", one_line.replace("&", "&amp;"))


def solid(text: str) -> str:
    """A number with its unit or error, which no line may break."""
    return text.replace(" ", "\u00a0")


def address(path: str, repository: str | None, *, folder: bool = False) -> str:
    """Where a file (or folder) of the release is: on the Hub if its repository is known, else beside the page."""
    if repository is None:
        return quote(path)
    if path == "README.md":  # what the repository's own page shows
        return f"{_HUB}/{repository}"
    return f"{_HUB}/{repository}/{'tree' if folder else 'blob'}/main/{quote(path)}"


def command(*words: str) -> str:
    """A line for a shell."""
    return shlex.join(words)


def fenced(text: str, language: str = "") -> str:
    """A code block, with a fence that the text does not contain."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
