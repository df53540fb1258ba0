"""What anyone wrote into a file is shown as it is, and does nothing to the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantpress.commands import printing
from quantpress.inspection import inspect
from tests.corrupt import forge
from tests.corrupt.forge import STRING, TYPE_F32, Forge, info, text


def forged(path: Path) -> Path:
    keys = (
        forge.key(b"markup", STRING, text(b"[INST] [bold]x[/bold] :smile: [/INST]")),
        forge.key(b"escape", STRING, text(b"\x1b[31mred")),
        forge.key(b"latin", STRING, text(b"caf\xe9")),
        forge.array(b"texts", STRING, 2, text(b"[/]") + text(b"\xff\xc3")),
        forge.array(b"many", STRING, 9, 9 * text(b"\xff")),
        forge.key("é".encode(), STRING, text("日本".encode())),
    )
    return Forge(keys=keys, infos=(info(b"[/t]\x1b[0m", (4,), TYPE_F32, 0),)).write(path)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printing.inspection(inspect(forged(tmp_path / "odd.gguf")))
    found = capsys.readouterr().out
    for line in (
        "markup  [INST] [bold]x[/bold] :smile: [/INST]",
        r"escape  '\x1b[31mred'",
        r"latin   caf\xe9",
        r"texts   ['[/]', '\\xff\\xc3']",
        "é       日本",
        r"'[/t]\x1b[0m'  F32   4",
    ):
        assert line in found
    assert "\x1b" not in found


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printing.json_or(printing.inspection, inspect(forged(tmp_path / "odd.gguf")), True)
    found = json.loads(capsys.readouterr().out)
    assert found["metadata"]["latin"] == r"caf\xe9"
    assert found["metadata"]["texts"] == ["[/]", r"\xff\xc3"]
    assert found["metadata"]["many"] == {"length": 9, "first": 8 * [r"\xff"]}
    assert found["metadata"]["é"] == "日本"
