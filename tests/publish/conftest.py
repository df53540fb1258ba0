"""A release and a Hub for it, with the gate open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpress.ledger import Ledger
from tests.hub_uploads import UploadHub, log_in, uploads
from tests.publish.releases import CHECK, ID, LARGE, MODELS, OTHERS


@pytest.fixture(autouse=True, scope="module")
def connection(hub_session: None) -> None:
    """One for all tests of a module."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release in its form; the content of its models is noise."""
    made = tmp_path / "release"
    ledger = Ledger(made / "release.json")
    ledger.facts = {"version": 1, "settings": {"repository": ID}}
    for name in (*MODELS, *OTHERS, "README.md", "work/evaluation.txt"):
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = LARGE if name in MODELS else 100
        content = name.encode() + os.urandom(size) if name in MODELS else f"---\n---\n{name}\n".encode()
        path.write_bytes(content)
        ledger.record([path], name)
    (made / "notes.txt").write_text("of my own", encoding="utf-8")
    (made / "Tiny-Q2_K.gguf").write_bytes(b"of an earlier run")
    (made / "LICENSE").write_text("MIT", encoding="utf-8")
    return made


@pytest.fixture(autouse=True)
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is open."""
    log_in(tmp_path / "home", monkeypatch)
    monkeypatch.setattr(CHECK, "check", lambda folder, **settings: [])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """A Hub on which the repository is not there yet."""
    with uploads(ID, tmp_path / "hub", monkeypatch) as running:
        yield running
