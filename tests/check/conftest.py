from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.chat import Conversation, Template, Tools, attempts
from quantpress.check import Finding, templates
from quantpress.errors import TextError
from tests.check import small

_RENDERED: dict[Template, list[str | TextError]] = {}


@pytest.fixture(autouse=True)
def _each_template_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a process, and the conversations are always the same."""

    def render(
        template: Template, conversations: list[tuple[Conversation, Tools | None]], *, prompt: bool
    ) -> list[str | TextError]:
        key = replace(template, path=Path())
        if key not in _RENDERED:  # a TextError is raised each time
            _RENDERED[key] = attempts(template, conversations, prompt=prompt)
        return _RENDERED[key]

    monkeypatch.setattr(templates, "attempts", render)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release as it was made: not to be changed."""
    return small.made(tmp_path_factory)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "release")


@pytest.fixture
def one(made: Path, folder: Path) -> Callable[..., Finding]:
    """The finding that was added, if there is no other."""

    def find(**how: Any) -> Finding:
        found = small.added(folder, made, **how)
        assert len(found) == 1, found
        return found[0]

    return find
