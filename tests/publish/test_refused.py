"""What is not published: releases with errors, without a login or the right to write, incomplete or too large."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import huggingface_hub.constants
import pytest

from quantpress.check import Finding
from quantpress.errors import HubError, InputError, OutputError
from quantpress.publish import Item, publish
from quantpress.upload import Uploader
from tests.hub_server import sha256
from tests.hub_uploads import UploadHub
from tests.publish.releases import CHECK, ID, MODELS, PUBLISHED, Notes, change, refuses, same, sent


def test_the_gate(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("error", "Tiny-Q8_0.gguf", "does not load", "Make it again"),
        Finding("warning", "README.md", "is short", ""),
    ]
    asked = []
    monkeypatch.setattr(CHECK, "check", lambda folder, **settings: asked.append(settings) or findings)
    notes = Notes()
    words = ("Tiny-Q8_0.gguf: does not load. Make it again", "Nothing was sent")
    for dry_run in (False, True):
        refuses(InputError, *words, do=lambda: publish(folder, dry_run=dry_run, progress=notes))  # noqa: B023
    assert [one["fast"] for one in asked] == [False, True]
    assert "warning: README.md: is short" in str(notes)
    assert not hub.answers
    findings.pop(0)
    publish(folder)
    assert same(folder, hub)


def test_a_run_that_goes_on_loads_nothing_again(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(CHECK, "check", lambda folder, fast, **settings: asked.append(fast) or [])
    publish(folder, dry_run=True)
    publish(folder)
    publish(folder)
    change(folder, another="release")
    publish(folder)
    assert asked == [True, False, True, False]


def test_no_login(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    refuses(InputError, ID, "token", "hf auth login", "HF_TOKEN", do=lambda: publish(folder))
    assert not hub.answers


def test_offline(folder: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refuses(HubError, "HF_HUB_OFFLINE", do=lambda: publish(folder))


@pytest.mark.parametrize("route", ["create", "commit", "main"])
def test_a_token_without_the_right(route: str, folder: Path, hub: UploadHub) -> None:
    hub.failures = {route: [(403, "You don't have the rights")] * 9}
    words = (ID, "one that may write", "You don't have the rights", "/settings/tokens")
    refuses(InputError, *words, do=lambda: publish(folder))
    assert not hub.committed


def test_a_wrong_token(folder: Path, hub: UploadHub) -> None:
    hub.failures = {"create": [(401, "Invalid username or password.")] * 9}
    refuses(InputError, ID, "one you may write to", "The token in use", do=lambda: publish(folder))


@pytest.mark.parametrize("status", [402, 403])
def test_no_room_on_the_hub(status: int, folder: Path, hub: UploadHub) -> None:
    hub.failures = {"batch": [(status, "Private repository storage limit reached")] * 9}
    refuses(InputError, "storage limit reached", "billing", do=lambda: publish(folder))


def test_a_card_that_the_hub_refuses(folder: Path, hub: UploadHub) -> None:
    (folder / "README.md").write_text("# No front matter\n", encoding="utf-8")
    refuses(InputError, "README.md", '"license" is required', do=lambda: publish(folder))
    assert not hub.committed


def test_something_else_answers(folder: Path, hub: UploadHub) -> None:
    hub.exists, hub.refusal = True, (200, "")
    refuses(HubError, "does not answer as the Hub does", "HF_ENDPOINT", do=lambda: publish(folder))


def test_nobody_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refuses(HubError, "no connection to http://127.0.0.1:9", do=lambda: publish(folder))


@pytest.mark.parametrize("name", ["Tiny", "acme/", "a/b/c", "-a/b", "acme/model@main", "https://hub/a/b", "a b/c"])
def test_no_name_of_a_repository(name: str, folder: Path, hub: UploadHub) -> None:
    refuses(InputError, "expected user/name", repr(name), do=lambda: publish(folder, repository=name))
    assert not hub.answers


def test_no_repository_at_all(folder: Path) -> None:
    change(folder, settings={"repository": None})
    refuses(InputError, "--repo user/name", do=lambda: publish(folder))


def test_a_large_file_that_is_no_model(folder: Path, hub: UploadHub) -> None:
    (folder / "report.html").write_bytes(bytes(60_000))
    words = ("report.html", "at most 50,000 bytes", "--split-size", "only models are split")
    for dry_run in (False, True):
        refuses(InputError, *words, do=lambda: publish(folder, split_bytes=50_000, dry_run=dry_run))  # noqa: B023
    assert not hub.answers


def test_what_was_streamed_has_to_be_there(folder: Path, hub: UploadHub) -> None:
    """Sent before and removed here: it is neither sent nor missed, unless the repository has it otherwise."""
    name, path = MODELS[0], folder / MODELS[0]
    uploader = Uploader(ID)
    uploader.create()
    uploader.upload_file(path, name)
    files = json.loads((folder / "release.json").read_text(encoding="utf-8"))["files"]
    change(folder, files={**files, name: {**files[name], "remote": True}})
    path.unlink()
    for dry_run in (True, False):
        found = publish(folder, dry_run=dry_run)
        assert Item(name, files[name]["bytes"], False, "is there") in found.files
        assert sorted({*sent(found), name}) == PUBLISHED
        assert found.left == ()
    (hub.folder_of_main / name).write_bytes(b"another")
    hub.renew()
    for dry_run in (True, False):
        words = (f"{ID}/{name}", "which was sent and removed here", sha256(hub.folder_of_main / name))
        refuses(InputError, *words, do=lambda: publish(folder, dry_run=dry_run))  # noqa: B023


@pytest.mark.parametrize("name", ["README.md", "Tiny-Q8_0.gguf"])
def test_an_unfinished_release(name: str, folder: Path, hub: UploadHub) -> None:
    (folder / name).unlink()
    refuses(InputError, "a complete one", f"no {name}", "quantpress release", do=lambda: publish(folder))


def test_no_release(tmp_path: Path) -> None:
    refuses(InputError, "release.json", "quantpress release", do=lambda: publish(tmp_path))
    (tmp_path / "release.json").write_text("{", encoding="utf-8")
    refuses(InputError, "expected JSON", do=lambda: publish(tmp_path))
    (tmp_path / "release.json").write_text("[]", encoding="utf-8")
    refuses(InputError, "release.json: files", do=lambda: publish(tmp_path))


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd"])
def test_a_list_that_leads_out_of_the_folder(name: str, folder: Path) -> None:
    change(folder, files={name: {}})
    refuses(InputError, "names of files in the folder", name, do=lambda: publish(folder))


def test_a_release_at_work(folder: Path, hub: UploadHub) -> None:
    lock = os.open(folder / "work", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    refuses(OutputError, "another run is at work", do=lambda: publish(folder))
    os.close(lock)
    publish(folder)
