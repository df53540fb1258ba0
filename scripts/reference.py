"""Write docs/commands.md, the reference of the commands, from the program itself: `python scripts/reference.py`.

A test compares the file with what this makes of the program as it is. typer has a generator of its own, whose form
changes with its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands

Every command has `--help`, and ends with one of these codes: 0 done, 1 an error of the system, 2 unusable input,
3 the output cannot be written, 4 llama.cpp failed, 130 interrupted. This page is made by the program itself.
"""


def reference() -> str:
    """Markdown, a section a command."""
    from quantpress.cli import app

    sections = [_section(name, command) for name, command in _commands("quantpress", get_command(app))]
    return "\n".join([HEAD, *sections])


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for word, found in command.commands.items():
            yield from _commands(f"{name} {word}", found)
    else:
        yield name, command


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join([name, *(_argument(one) for one in arguments), "[OPTIONS]"])
    lines = [f"## {name}", "", *command.help.split("\n"), "", "```", usage, "```", ""]
    lines += ["| | | default |", "|---|---|---|"]
    lines += [_row(f"`{one.metavar}`", one, "") for one in arguments]
    lines += [_row(_option(one), one, _default(one)) for one in options]
    return "\n".join(lines) + "\n"


def _argument(one: Any) -> str:
    text = f"{one.metavar}{'…' if one.nargs == -1 else ''}"
    return text if one.required else f"[{text}]"


def _option(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
    return names if one.is_flag else f"{names} `{one.metavar}`"


def _default(one: Any) -> str:
    if one.required:
        return "required"
    off = one.default is None or one.default is False or one.default in ([], ())
    return "" if off else f"`{one.opts[0] if one.default is True else one.default}`"


def _row(name: str, one: Any, default: str) -> str:
    cells = (name, one.help or "", default)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
