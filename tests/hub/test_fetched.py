"""Checkpoints from a Hub that runs here: what is fetched, and when."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import numpy as np
import pytest

import quantpress.download
import quantpress.hub
from quantpress.inputs import name_of
from quantpress.progress import BarProgress, Progress
from tests.checkpoints import edit_json, write_shards
from tests.hub.conversions import HEAD, ID, local, remote, wait_for, weights
from tests.hub_server import Hub


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
    wait_for((checkpoint.path / names[1]).exists)
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
