"""What each failure says, before any weight travels: bad checkpoints, no room, no right, nobody there."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

import quantpress.download
import quantpress.hub
from quantpress.errors import CheckpointError, DiskFullError, HubError, OutputError
from tests.checkpoints import edit_json
from tests.hub.conversions import HEAD, ID, refuses, weights
from tests.hub_server import Hub


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


def test_an_index_leads_out_of_the_repository(sharded: Path, tmp_path: Path, serve: Callable[..., Hub]) -> None:
    index = sharded / "model.safetensors.index.json"
    names = dict.fromkeys(json.loads(index.read_text())["weight_map"], "../model.safetensors")
    edit_json(index, weight_map=names)
    hub = serve(sharded)
    refuses(tmp_path, CheckpointError, f"{ID}/model.safetensors.index.json: weight_map")
    assert hub.sent() == 0
