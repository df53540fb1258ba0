"""Releases to a Hub that fails: connections that break, answers that get lost, and what an interrupted run keeps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quantpress.errors import HubError, InputError
from quantpress.publish import publish
from quantpress.upload import Uploader
from tests.hub_uploads import UploadHub
from tests.publish.releases import ID, MODELS, PUBLISHED, refuses, same, sent


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
