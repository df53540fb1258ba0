from __future__ import annotations

from pathlib import Path

import pytest

from quantpress.errors import OutputError
from quantpress.files import write_text
from quantpress.ledger import Ledger


def test_it_keeps_files_that_are_what_was_made(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"made")
    ledger = Ledger(tmp_path / "release.json")
    ledger.record([file], "source")
    assert Ledger(tmp_path / "release.json").kept("source") == [file]
    assert Ledger(tmp_path / "release.json").kept("another") == []

    file.write_bytes(b"nade")
    assert Ledger(tmp_path / "release.json").kept("source") == []
    file.unlink()
    assert Ledger(tmp_path / "release.json").kept("source") == []


def test_a_part_that_is_gone_spoils_the_whole(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")]
    for file in files:
        file.write_bytes(b"made")
    Ledger(tmp_path / "release.json").record(files, "source")
    assert Ledger(tmp_path / "release.json").kept("source") == files
    files[1].unlink()
    assert Ledger(tmp_path / "release.json").kept("source") == []


def test_what_was_sent_is_kept_while_the_hub_has_it(tmp_path: Path) -> None:
    path, file = tmp_path / "release.json", tmp_path / "a.gguf"
    file.write_bytes(b"made")
    ledger = Ledger(path)
    ledger.record([file], "source")
    sha256 = ledger.sha256(file)
    ledger.sent(file)
    assert not file.exists()
    again = Ledger(path, {"a.gguf": sha256})
    assert again.kept("source") == [file]
    assert again.remote(file)
    assert again.bytes(file) == 4
    for there in ({"a.gguf": "0" * 64}, {"a.gguf": None}, {}, None):
        assert Ledger(path, there).kept("source") == []
        assert Ledger(path, there).gone == ["a.gguf"]
    file.write_bytes(b"made")  # as after a download
    assert not Ledger(path, {"a.gguf": sha256}).remote(file)


@pytest.mark.parametrize(
    "damage", ['{"files": {"a": ', "[]", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {}}}']
)
def test_a_damaged_ledger_vouches_for_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "release.json").write_text(damage)
    assert Ledger(tmp_path / "release.json").kept("source") == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")
    path.with_name(".results.json.partial").mkdir()
    with pytest.raises(OutputError, match=r"results\.json: cannot be written"):
        write_text(path, "new")
    assert path.read_text() == "old"
