"""Releases to a Hub that runs here: what is sent and in what order, what an interrupted run keeps, what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import Result
from typer.testing import CliRunner

from quantpress.check import Finding
from quantpress.cli import _keeps, app
from quantpress.errors import HubError, InputError, OutputError, QuantpressError
from quantpress.ledger import Ledger
from quantpress.progress import Progress
from quantpress.publish import Item, Publication, publish
from quantpress.upload import LocalFile, Uploader
from tests.hub_server import git_hash, sha256
from tests.hub_uploads import UploadHub, log_in, uploads

CHECK = import_module("quantpress.check")  # the module: the package has a function of its name
ID = "acme/Tiny-GGUF"
MODELS = ("Tiny-Q8_0.gguf", "Tiny-BF16/Tiny-BF16-00001-of-00002.gguf", "Tiny-BF16/Tiny-BF16-00002-of-00002.gguf")
OTHERS = ("README.zh.md", "calibration.txt", "plots/frontier.png", "plots/frontier.svg", "report.html", "results.json")
LARGE = 100_000  # bytes of each model

pytestmark = pytest.mark.usefixtures("hub_session")


class Notes(Progress):
    """What the user was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def __str__(self) -> str:
        return "\n".join(self.lines)


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


PUBLISHED = sorted((*MODELS, *OTHERS, "LICENSE", "README.md", "release.json"))


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


def refuses(kind: type[QuantpressError], *words: str, do: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        do()
    for word in words:
        assert word in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    return str(caught.value)


def same(folder: Path, hub: UploadHub) -> bool:
    return all((folder / name).read_bytes() == (hub.folder_of_main / name).read_bytes() for name in PUBLISHED)


def sent(found: Publication) -> list[str]:
    return sorted(item.file for item in found.files if item.sent)


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


# What breaks on the way


def test_cut_in_the_middle_of_a_file(folder: Path, hub: UploadHub) -> None:
    hub.put_cuts = [10_000, 65_536]
    publish(folder)
    assert same(folder, hub)


def test_cut_in_the_middle_of_a_part(folder: Path, hub: UploadHub) -> None:
    hub.chunk, hub.put_cuts = 30_000, [10_000]
    publish(folder)
    assert same(folder, hub)


ROUTES = ("put", "batch", "main", "commit", "paths-info", "create", "validate-yaml")


@pytest.mark.parametrize(("route", "status"), [*((route, 503) for route in ROUTES), ("put", 500), ("commit", 429)])
def test_a_busy_hub(route: str, status: int, folder: Path, hub: UploadHub) -> None:
    hub.failures = {route: [(status, "")] * 2}
    publish(folder)
    assert same(folder, hub)
    assert not hub.failures[route]


def test_a_lost_answer(folder: Path, hub: UploadHub) -> None:
    """The commit is there: it is found, and nothing is sent twice."""
    hub.lost = 1
    publish(folder)
    assert same(folder, hub)
    assert sorted(name for names in hub.committed for name in names) == PUBLISHED
    assert hub.received == sum((folder / name).stat().st_size for name in (*MODELS, "plots/frontier.png"))


def test_a_connection_lost_for_good(folder: Path, hub: UploadHub) -> None:
    publish(folder)
    hub.failures = {"paths-info": [(503, "")] * 1000}
    refuses(HubError, hub.endpoint, "503", "Run the same command again", do=lambda: publish(folder))


def test_a_second_run_sends_the_rest(folder: Path, hub: UploadHub) -> None:
    """The first ends at the second model; what it sent is not sent again."""
    first = sorted(MODELS)[0]
    uploader = Uploader(ID)
    uploader.create()
    assert uploader.upload_file(folder / first, first)
    hub.failures = {"put": [(400, "broken")]}
    refuses(InputError, "broken", do=lambda: publish(folder))
    assert "README.md" not in hub.names()
    received = hub.received
    found = publish(folder)
    large = [item for item in found.files if item.sent and item.file.endswith((".gguf", ".png"))]
    assert hub.received - received == sum(item.bytes for item in large)
    assert first not in sent(found)
    assert same(folder, hub)


def test_damaged_on_its_way(folder: Path, hub: UploadHub) -> None:
    hub.flips = True
    words = ("hash after the upload", "Run the same command again")
    refuses(HubError, *words, do=lambda: publish(folder))
    assert "README.md" not in hub.names()
    hub.flips = False
    publish(folder)
    assert same(folder, hub)


def test_killed_and_run_again(folder: Path, hub: UploadHub, tmp_path: Path) -> None:
    """Whatever it had sent is not sent again, and the page is there at the end."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    gate = "importlib.import_module('quantpress.check').check = lambda *a, **k: []"
    code = f"import importlib; {gate}; from quantpress.cli import main; main()"
    command = [sys.executable, "-c", code, "publish", str(folder), "--repo", ID, "--quiet"]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not hub.committed and time.monotonic() < deadline and run.poll() is None:
        threading.Event().wait(0.01)  # time.sleep does nothing here
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode in (0, 130), said  # 0: it was done before
    there = {name for names in hub.committed for name in names}
    found = publish(folder)
    assert not there & set(sent(found))
    assert same(folder, hub)


# What is refused


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


def change(folder: Path, **facts: object) -> None:
    path = folder / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **facts}), encoding="utf-8")


def test_a_large_file_is_split_by_release(folder: Path, hub: UploadHub) -> None:
    words = ("at most 50,000 bytes", "--split-size", "quantpress release", "--split-gb")
    refuses(InputError, *words, do=lambda: publish(folder, split_bytes=50_000))
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
