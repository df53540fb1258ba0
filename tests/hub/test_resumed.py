"""Downloads that break, stall or are killed: what is taken up again, and who waits no longer."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

import quantpress.download
import quantpress.hub
from quantpress.download import Ahead, Stop
from quantpress.errors import CheckpointError, HubError
from tests.hub.conversions import HEAD, ID, local, refuses, remote, wait_for, weights
from tests.hub_server import Hub


def test_a_connection_that_is_cut_is_taken_up_again(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    hub.cuts["model.safetensors"] = [200_000, 100_000]
    assert remote(tmp_path) == local(model, tmp_path)
    assert hub.sent() < weights(model) + 16 * HEAD


def test_a_run_that_was_cut_off_goes_on(sharded: Path, tmp_path: Path, serve: Callable[..., Hub], cache: Path) -> None:
    hub = serve(sharded)
    first = sharded / "model-00001-of-00003.safetensors"
    half = first.stat().st_size // 2
    quantpress.hub.read(ID)  # the headers are fetched whole
    headers = hub.sent()
    hub.answers.clear()
    hub.cuts[first.name] = [half, *[0] * 20]
    refuses(tmp_path, HubError, f"{ID}/{first.name}", "no connection", "Run the same command again")
    assert len(list(cache.rglob("*.quantpress.incomplete"))) == 1
    assert hub.sent() == half + headers
    hub.cuts.clear()
    assert remote(tmp_path) == local(sharded, tmp_path)
    assert hub.sent() == weights(sharded) + 2 * headers
    assert not list(cache.rglob("*.quantpress.incomplete"))


def test_a_process_that_is_killed_goes_on(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """Through the command line, with the settings in the environment."""
    hub = serve(sharded)
    with _cli(tmp_path, hub) as running:
        running.kill()
    kept = _begun(tmp_path)
    hub.answers.clear()  # the one to the killed process counts on until its connection is found to be closed
    hub.stalls = False
    with _cli(tmp_path, hub) as running:
        assert running.communicate(timeout=60)[1].count("fetch model-0000") >= 3
    assert running.returncode == 0
    assert (tmp_path / "cli.gguf").read_bytes() == local(sharded, tmp_path)
    assert hub.sent() < weights(sharded) - kept + 3 * (1 << 17)


def test_ctrl_c_in_a_stalled_download(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(sharded)
    with _cli(tmp_path, hub) as running:
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    hub.stalls = False
    assert running.returncode == 130
    assert "the same command goes on where it was" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*cli.gguf*"))
    assert _begun(tmp_path)


@contextlib.contextmanager
def _cli(tmp_path: Path, hub: Hub) -> Iterator[subprocess.Popen[str]]:
    """`quantpress convert --remote`, stalled in the first shard unless there is some of it already."""
    hub.stalls = not _begun(tmp_path)
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    code = "from quantpress.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "convert", "--remote", ID, str(tmp_path / "cli.gguf")],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            wait_for(lambda: not hub.stalls or _begun(tmp_path) > 1 << 15)
            yield running
        finally:
            running.kill()


def _begun(tmp_path: Path) -> int:
    # os.walk passes over a folder that goes while it looks, which the hub's client makes and removes; rglob does not
    found = [Path(folder) / name for folder, _, names in os.walk(tmp_path / "home") for name in names]
    return sum(path.stat().st_size for path in found if path.name.endswith(".quantpress.incomplete"))


def test_a_server_that_knows_no_ranges(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    hub.ranges = False
    hub.cuts["model.safetensors"] = [200_000]
    assert remote(tmp_path) == local(model, tmp_path)


def test_a_damaged_shard(model: Path, tmp_path: Path, serve: Callable[..., Hub], cache: Path) -> None:
    hub = serve(model)
    hub.damaged = True
    refuses(tmp_path, CheckpointError, f"{ID}/model.safetensors: SHA-256", "damaged on its way", "again")
    assert not list(cache.rglob("*.quantpress.incomplete"))
    hub.damaged = False
    assert remote(tmp_path) == local(model, tmp_path)


def test_two_runs_at_once_fetch_once(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    found: list[bytes] = []
    for name in "ab":
        (tmp_path / name).mkdir()
    runs = [threading.Thread(target=lambda name=name: found.append(remote(tmp_path / name))) for name in "ab"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert found == [local(model, tmp_path)] * 2
    assert hub.sent() < weights(model) + 2 * 16 * HEAD


def test_closing_releases_who_waits() -> None:
    started = threading.Event()

    def fetch(name: str, stop: Stop) -> None:
        started.set()
        stop.wait(20)

    ahead = Ahead(fetch, ["a", "b"])
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            ahead.wait_for("a")
        except HubError as error:
            failed.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert started.wait(20)
    ahead.close()
    waiting.join(20)
    assert len(failed) == 1
    with pytest.raises(HubError, match="fetching was stopped"):
        ahead.wait_for("b")


def test_closing_while_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks in the middle of it waits until it is done."""
    begun, answered = threading.Event(), threading.Event()

    class Slow(Future[None]):
        def __init__(self) -> None:
            super().__init__()
            begun.set()
            answered.wait(0.2)

    monkeypatch.setattr(quantpress.download, "Future", Slow)
    ahead = Ahead(lambda name, stop: None, ["a", "b"])
    closing = threading.Thread(target=ahead.close)
    closing.start()
    assert begun.wait(20)
    with pytest.raises(HubError, match="fetching was stopped"):
        ahead.wait_for("b")
    answered.set()
    closing.join(20)


def test_a_failed_check_ends_the_fetching(
    model: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(Ahead, "close", lambda self: closed.append(self))
    (model / "tokenizer.model").unlink()
    (model / "tokenizer.json").unlink()
    serve(model)
    refuses(tmp_path, CheckpointError, "tokenizer")
    assert closed
