"""The documentation says what the program does: its reference is the program's, its command lines are ones it takes."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from quantpress.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def lines(page: Path) -> list[str]:
    """The command lines in a page's blocks, without what follows a #."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in found if line.startswith("quantpress ") and "…" not in line]


COMMANDS = [(page.name, line) for page in PAGES if page.name != "commands.md" for line in lines(page)]


def parse(command: Any, arguments: list[str]) -> None:
    """As the program does, but for running it; raises click's errors."""
    context = command.make_context("quantpress", arguments)
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, arguments)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_line_is_one_that_the_program_takes(page: str, line: str) -> None:
    parse(get_command(app), shlex.split(line, comments=True)[1:])


def test_there_are_command_lines_of_every_command() -> None:
    names = {shlex.split(line)[1] for _, line in COMMANDS}
    assert names == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_the_reference_is_the_programs() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hint = "run python scripts/reference.py"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == module.reference(), hint


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r'(src|href)="https?://(?!github|squidfunk)', page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
