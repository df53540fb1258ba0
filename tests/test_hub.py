"""Checkpoints from a Hub that runs here: what is fetched and when, what is taken up again, what each failure says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import numpy as np
import pytest
from huggingface_hub.utils import close_session

import quantpress.download
import quantpress.hub
from quantpress.checkpoint import read
from quantpress.convert import convert
from quantpress.convert.sources import stored
from quantpress.download import Ahead, Stop
from quantpress.errors import CheckpointError, DiskFullError, HubError, OutputError, QuantpressError
from quantpress.inputs import base_of, name_of
from quantpress.ledger import Ledger
from quantpress.progress import BarProgress, Progress
from tests.checkpoints import edit_json, tiny, write_shards
from tests.hub_server import Hub, serving

ID = "acme/Tiny-Gemma-3-1B-it"
HEAD = 512  # bytes of a shard that are asked for first, instead of more than these small ones have


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint in one file, in a folder with the repository's name."""
    folder = tiny(tmp_path / "here" / "Tiny-Gemma-3-1B-it", dtype="F32")
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [en]\n---\n# A card\n", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    return folder


@pytest.fixture
def sharded(model: Path) -> Path:
    """The same in three shards."""
    tensors = {name: stored(one).floats().reshape(one.shape) for name, one in read(model).tensors.items()}
    (model / "model.safetensors").unlink()
    write_shards(model, tensors, 3, "F32")
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The library, with an empty cache, nobody logged in and no patience."""
    home = tmp_path / "home"
    settings = {
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HF_TOKEN_PATH": home / "token",
        "HF_STORED_TOKENS_PATH": home / "stored_tokens",
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, str(value))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 5)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(quantpress.download, "_HEAD", HEAD)
    monkeypatch.setattr(quantpress.download, "_WAIT", 0.0)
    yield home / "hub"
    close_session()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hub]]:
    """`serve(folder)` is a running Hub with it as the branch main; `serve(main=…, other=…)` has several."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path | None = None, **revisions: Path) -> Hub:
            hub = stack.enter_context(serving(Hub(ID, {"main": folder, **revisions} if folder else revisions)))
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
            template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
            return hub

        yield start


def remote(out: Path, repository: str = ID, **settings: object) -> bytes:
    path = convert(repository, out / "remote.gguf", remote=True, **settings)  # type: ignore[arg-type]
    return path.read_bytes()


def local(folder: Path, out: Path) -> bytes:
    return convert(folder, out / "local.gguf").read_bytes()


def weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def refuses(out: Path, kind: type[QuantpressError], *words: str, repository: str = ID) -> str:
    with pytest.raises(kind) as caught:
        remote(out, repository)
    for word in words:
        assert word in str(caught.value)
    assert not (out / "remote.gguf").exists()
    assert not list(out.glob(".*.partial"))
    return str(caught.value)


# What comes


def test_one_file(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    assert remote(tmp_path) == local(model, tmp_path)
    assert weights(model) <= hub.sent() < weights(model) + 16 * HEAD


def test_shards(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(sharded)
    assert remote(tmp_path) == local(sharded, tmp_path)
    assert hub.sent() < weights(sharded) + 3 * 16 * HEAD


def test_a_single_file_beside_shards(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """It alone is fetched."""
    expected = local(model, tmp_path)
    write_shards(model, {"left.over": np.ones((64, 64), np.float32)}, 1, "F32")
    hub = serve(model)
    assert remote(tmp_path) == expected
    assert hub.sent("-00001-of-00001.safetensors") == 0


def test_a_second_run_fetches_nothing(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(sharded)
    first = remote(tmp_path)
    hub.answers.clear()
    assert remote(tmp_path) == first
    assert [answer.file for answer in hub.answers if answer.method == "GET"] == [
        f"/api/models/{ID}/revision/{hub.commits['main']}"
    ]


def test_what_another_tool_has_fetched_is_taken(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    huggingface_hub.hf_hub_download(ID, "model.safetensors")
    sent = hub.sent()
    remote(tmp_path)
    assert hub.sent() == sent


def test_a_folder_that_another_tool_has_fetched(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """What `hf download` prints can be given as a folder, and is the same model."""
    serve(model)
    expected = remote(tmp_path)
    folder = Path(huggingface_hub.hf_hub_download(ID, "config.json")).parent
    assert local(folder, tmp_path) == expected
    assert name_of(folder) == "Tiny-Gemma-3-1B-it"


def test_other_tools_take_what_was_fetched(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    remote(tmp_path)
    sent = hub.sent()
    path = Path(huggingface_hub.hf_hub_download(ID, "model.safetensors"))
    assert hub.sent() == sent
    assert path.read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_revision(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """A branch, and the commit that it stands for."""
    other = tmp_path / "other" / model.name
    shutil.copytree(model, other)
    edit_json(other / "config.json", rope_theta=12345.0)
    hub = serve(main=model, other=other)
    expected = local(other, tmp_path)
    assert expected != local(model, tmp_path)
    assert remote(tmp_path, f"{ID}@other") == expected
    sent = hub.sent()
    assert remote(tmp_path, f"{ID}@{hub.commits['other']}") == expected
    assert remote(tmp_path) == local(model, tmp_path)
    assert hub.sent() == sent, "the weights are the same, and the cache has them"


def test_a_branch_that_moves_during_a_run(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    """All files are of the commit that the first one was of."""
    newer = tmp_path / "newer" / sharded.name
    shutil.copytree(sharded, newer)
    (newer / "README.md").write_text("---\nlicense: other\n---\n", encoding="utf-8")
    hub = serve(main=newer, before=sharded)
    hub.commits = {"main": hub.commits["before"], "newer": hub.commits["main"]}
    hub.revisions = {"main": sharded, "newer": newer}

    class Moves(Progress):
        def task(self, label: str, total: int, unit: str = "") -> object:  # type: ignore[override]
            if label.endswith("files"):
                hub.commits = {"main": hub.commits["newer"], "before": hub.commits["main"]}
                hub.revisions = {"main": newer, "before": sharded}
            return super().task(label, total, unit)

    assert remote(tmp_path, progress=Moves()) == local(sharded, tmp_path)


def test_shards_come_when_the_conversion_comes_to_them(
    sharded: Path, tmp_path: Path, serve: Callable[..., Hub]
) -> None:
    """The first read fetches its shard and the next one, and no third."""
    hub = serve(sharded)
    checkpoint = quantpress.hub.read(ID)
    assert hub.sent() < 3 * 16 * HEAD
    next(iter(checkpoint.tensors.values())).read(0, 1)
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    _wait_for((checkpoint.path / names[1]).exists)
    assert [(checkpoint.path / name).exists() for name in names] == [True, True, False]
    checkpoint.close()


def test_the_login_is_not_shown_to_the_host_of_the_weights(
    model: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub = serve(model)
    remote(tmp_path)
    assert {answer.login for answer in hub.answers if answer.file.startswith("/cdn/")} == {False}
    assert {answer.login for answer in hub.answers if answer.file.startswith(("/api/models/", f"/{ID}/"))} == {True}


def test_bars_of_several_threads(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    serve(model)
    progress = BarProgress()
    progress.console.file = (tmp_path / "bars").open("w")
    remote(tmp_path, progress=progress)
    progress.console.file.close()
    assert "convert" in (tmp_path / "bars").read_text()


# Resuming


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
            _wait_for(lambda: not hub.stalls or _begun(tmp_path) > 1 << 15)
            yield running
        finally:
            running.kill()


def _begun(tmp_path: Path) -> int:
    # os.walk passes over a folder that goes while it looks, which the hub's client makes and removes; rglob does not
    found = [Path(folder) / name for folder, _, names in os.walk(tmp_path / "home") for name in names]
    return sum(path.stat().st_size for path in found if path.name.endswith(".quantpress.incomplete"))


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


# Refusals, before any weight travels


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["UnheardOfModel"]}, ["architectures", "UnheardOfModel"]),
        ({"num_hidden_layers": 1}, ["num_hidden_layers = 1"]),
        ({"intermediate_size": 32}, ["shape"]),
        ({"vocab_size": 4000}, ["vocab_size"]),
    ],
)
def test_a_bad_checkpoint(
    fields: dict[str, object], words: list[str], sharded: Path, tmp_path: Path, serve: Callable[..., Hub]
) -> None:
    edit_json(sharded / "config.json", **fields)
    hub = serve(sharded)
    refuses(tmp_path, CheckpointError, *words)
    assert all(answer.range for answer in hub.answers if answer.file.endswith(".safetensors"))
    assert hub.sent() < 3 * 16 * HEAD


def test_a_bad_header(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0" * 8)
    hub = serve(model)
    refuses(tmp_path, CheckpointError, f"{ID}/model.safetensors: end of data: expected")
    assert hub.sent() < 16 * HEAD


def test_a_missing_shard(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    hub = serve(sharded)
    refuses(tmp_path, CheckpointError, f"{ID}: shards", "no model-00002-of-00003.safetensors")
    assert hub.sent() == 0


def test_pickles(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    hub = serve(model)
    refuses(tmp_path, CheckpointError, f"{ID}: weights: expected safetensors, found pickle (pytorch_model.bin)")
    assert hub.sent(".bin") == hub.sent("tokenizer.json") == 0


def test_no_config(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    (model / "config.json").unlink()
    serve(model)
    refuses(tmp_path, CheckpointError, f"{ID}: config.json: expected a file, found none")


def test_no_room(
    model: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    hub = serve(model)
    monkeypatch.setattr(quantpress.hub, "_free", lambda path: 1000)
    refuses(tmp_path, DiskFullError, str(cache), f"{weights(model):,} bytes needed, 1,000 free", "HF_HOME")
    assert hub.sent() == 0


def test_a_disk_that_fills_up(
    model: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    serve(model)
    monkeypatch.setattr(quantpress.download, "_append", full)
    refuses(tmp_path, DiskFullError, "model.safetensors: not enough disk space", f"{weights(model):,} bytes needed")


def test_a_cache_that_cannot_be_written(model: Path, tmp_path: Path, serve: Callable[..., Hub], cache: Path) -> None:
    serve(model)
    cache.parent.mkdir()
    cache.write_text("a file where the folder would be")
    refuses(tmp_path, OutputError, str(cache))


# Who may not, what is not there, who is not there


@pytest.mark.parametrize("text", ["", "acme/", "a/b/c", "https://hub/acme/model", "-a/b", "acme/model@", "a b"])
def test_no_name_of_a_repository(text: str, tmp_path: Path) -> None:
    refuses(tmp_path, CheckpointError, "expected", repository=text)


def test_a_folder_instead_of_a_repository(model: Path, tmp_path: Path) -> None:
    refuses(tmp_path, CheckpointError, "Without --remote", repository=str(model))


@pytest.mark.parametrize("status", [401, 404])
def test_no_such_repository(status: int, model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    serve(model).refusal = (status, "RepoNotFound")
    refuses(
        tmp_path, CheckpointError, f"{ID}", "expected one that you may read, found none", "hf auth login", "HF_TOKEN"
    )


@pytest.mark.parametrize("status", [401, 403])
def test_gated(status: int, model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    hub.refusal = (status, "GatedRepo")
    refuses(tmp_path, CheckpointError, "a gated one", f"{hub.endpoint}/{ID}", "`hf auth login`", "HF_TOKEN")


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_without_the_right(
    status: int, model: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    serve(model).refusal = (status, "")
    assert "hf_secret" not in refuses(tmp_path, CheckpointError, ID, "The token in use has no right to it")


def test_no_such_revision(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    serve(model)
    refuses(tmp_path, CheckpointError, f"{ID}: revision", "none named nightly", repository=f"{ID}@nightly")


def test_a_hub_that_is_down(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    hub.refusal = (503, "")
    refuses(tmp_path, HubError, f"{ID}/config.json", hub.endpoint, "503", "again")


def test_nobody_answers(
    tmp_path: Path, serve: Callable[..., Hub], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = serve(model)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    refuses(tmp_path, HubError, "no connection to http://127.0.0.1:9")
    assert not hub.answers


def test_something_else_answers(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    serve(model).refusal = (200, "")
    refuses(tmp_path, HubError, "does not answer as the Hub does", "HF_ENDPOINT")


# A release


def test_a_release_starts_from_the_commit(model: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    hub = serve(model)
    ledger = Ledger(tmp_path / "release.json")
    ledger.facts = {"quantpress": "0"}
    source = quantpress.hub.pinned(ID)
    assert name_of(source) == "Tiny-Gemma-3-1B-it"
    base = base_of(source, ledger, ["BF16"], 10**9, Progress())
    assert base.path == tmp_path / "Tiny-Gemma-3-1B-it-BF16.gguf"
    assert base.path.read_bytes() == local(model, tmp_path)
    assert ledger.facts["source"] == {"repository": ID, "commit": hub.commits["main"]}
    hub.answers.clear()
    assert base_of(quantpress.hub.pinned(ID), ledger, ["BF16"], 10**9, Progress()) == base
    assert hub.sent("") == 0


# Offline


def test_offline(sharded: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub = serve(sharded)
    first = remote(tmp_path)
    hub.answers.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert remote(tmp_path) == first
    assert not hub.answers


def test_offline_with_a_shard_missing(
    sharded: Path, tmp_path: Path, serve: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(sharded)
    quantpress.hub.read(ID)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()
    refuses(tmp_path, CheckpointError, f"{ID}: shards", "no model-00001-of-00003.safetensors", "HF_HUB_OFFLINE is set")


def test_offline_with_an_empty_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()
    refuses(tmp_path, HubError, f"{ID}/config.json", "HF_HUB_OFFLINE is set")


def test_an_index_leads_out_of_the_repository(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    index = sharded / "model.safetensors.index.json"
    names = dict.fromkeys(json.loads(index.read_text())["weight_map"], "../model.safetensors")
    edit_json(index, weight_map=names)
    hub = serve(sharded)
    refuses(tmp_path, CheckpointError, f"{ID}/model.safetensors.index.json: weight_map")
    assert hub.sent() == 0
