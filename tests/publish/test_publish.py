"""Releases to a Hub that runs here: what is sent and in what order, and what a dry run says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from quantpress.cli import _keeps, app
from quantpress.errors import InputError
from quantpress.publish import publish
from quantpress.upload import LocalFile, Uploader
from tests.hub_server import git_hash, sha256
from tests.hub_uploads import UploadHub
from tests.publish.releases import ID, LARGE, MODELS, OTHERS, PUBLISHED, Notes, refuses, same, sent

# What is sent


def test_a_release(folder: Path, hub: UploadHub) -> None:
    found = publish(folder)
    assert [name for name in hub.names() if name != ".gitattributes"] == PUBLISHED
    assert same(folder, hub)
    assert not hub.private
    assert sent(found) == PUBLISHED
    assert found.url == f"{hub.endpoint}/{ID}"
    assert found.bytes == sum((folder / name).stat().st_size for name in PUBLISHED)


def test_models_first_and_the_page_last(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    assert [len(names) for names in hub.committed] == [1, 1, 1, len(OTHERS) + 2, 1]
    assert sorted(name for names in hub.committed[:3] for name in names) == sorted(MODELS)
    assert hub.committed[-1] == ["README.md"]


def test_a_second_run_sends_nothing(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    received, commits = hub.received, len(hub.committed)
    again = publish(folder)
    assert (hub.received, len(hub.committed)) == (received, commits)
    assert sent(again) == []
    assert {item.why for item in again.files} == {"is there"}


def test_a_changed_file_is_sent_again(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    (folder / "results.json").write_text("{}", encoding="utf-8")
    (folder / MODELS[0]).write_bytes(bytes(LARGE))
    received = hub.received
    again = publish(folder)
    assert sent(again) == ["Tiny-Q8_0.gguf", "results.json"]
    assert hub.received == received + LARGE
    assert {item.why for item in again.files if item.sent} == {"other content there"}
    assert same(folder, hub)


def test_in_parts(folder: Path, hub: UploadHub) -> None:
    hub.chunk = 30_000
    publish(folder)
    assert same(folder, hub)
    assert sum("/part/" in answer.file for answer in hub.answers) == 3 * 4


def test_what_is_left_there_is_named_and_kept(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    (hub.folder_of_main / "Tiny-Q2_K.gguf").write_bytes(b"of an older release")
    hub.renew()
    notes = Notes()
    assert publish(folder, progress=notes).left == ("Tiny-Q2_K.gguf",)
    assert "not of this release: Tiny-Q2_K.gguf" in str(notes)
    assert "Tiny-Q2_K.gguf" in hub.names()


def test_private(folder: Path, hub: UploadHub) -> None:
    publish(folder, private=True)
    assert hub.private
    notes = Notes()
    publish(folder, progress=notes)
    assert "stays" in str(notes)


def test_a_public_repository_is_not_made_private(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    (folder / "results.json").write_text("secret", encoding="utf-8")
    refuses(InputError, "a private one", "/settings", do=lambda: publish(folder, private=True))
    assert not same(folder, hub)


def test_another_repository_than_that_of_the_page(folder: Path, hub: UploadHub) -> None:
    hub.id = "acme/Trial"
    notes = Notes()
    assert publish(folder, repository="acme/Trial", progress=notes).url.endswith("/acme/Trial")
    assert f"the page names {ID}" in str(notes)


# Dry runs


def test_dry_run(folder: Path, hub: UploadHub) -> None:
    notes = Notes()
    found = publish(folder, dry_run=True, progress=notes)
    assert sent(found) == PUBLISHED
    assert {item.why for item in found.files} == {"new"}
    assert "would be made" in str(notes)
    assert not hub.exists
    assert {answer.method for answer in hub.answers} == {"GET"}
    publish(folder)
    (folder / "results.json").write_text("{}", encoding="utf-8")
    hub.answers.clear()
    found = publish(folder, dry_run=True)
    assert sent(found) == ["results.json"]
    assert {answer.method for answer in hub.answers} == {"GET"}


def test_dry_run_without_a_login(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert sent(publish(folder, dry_run=True)) == PUBLISHED
    assert not hub.answers


# One file at a time


def test_a_verified_file_may_be_deleted(folder: Path, hub: UploadHub) -> None:
    uploader, file, name = Uploader(ID), folder / MODELS[0], "Tiny-Q8_0.gguf"
    assert uploader.create()
    assert not uploader.create()
    assert uploader.upload_file(file, name)
    assert not uploader.upload_file(file, name)
    expected = sha256(file)
    file.unlink()
    assert uploader.files()[name].sha256 == expected


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello\n")
    assert LocalFile(tmp_path / "a").blob == "ce013625030ba8dba906f756967f9e9ca394464a"  # `git hash-object`
    assert LocalFile(tmp_path / "a").blob == git_hash(tmp_path / "a")
    refuses(InputError, "missing", do=lambda: LocalFile(tmp_path / "missing").size)


# The command


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["publish", *arguments])


def test_the_table(folder: Path, hub: UploadHub) -> None:
    shown = run(str(folder), "--repo", ID, "--dry-run").output
    assert f"{len(PUBLISHED)} of {len(PUBLISHED)} files would be sent" in shown
    assert not hub.exists
    shown = run(str(folder), "--private").output
    assert f"{hub.endpoint}/{ID}: {len(PUBLISHED)} of {len(PUBLISHED)} files sent, " in shown
    assert all(name in shown for name in PUBLISHED)
    assert hub.private


def test_json(folder: Path, hub: UploadHub) -> None:
    found = json.loads(run(str(folder), "--json", "--quiet").stdout)
    assert [item["file"] for item in found["files"] if item["sent"]][-1] == "README.md"
    assert found["url"] == f"{hub.endpoint}/{ID}"


def test_a_size_that_is_none(folder: Path) -> None:
    found = run(str(folder), "--split-size", "50")
    assert "--split-size" in str(found.exception)


def test_interrupted_it_goes_on() -> None:
    assert _keeps(["publish", "folder"])
    assert _keeps(["pull", "acme/model"])
