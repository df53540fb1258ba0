"""The commit that a release starts from, and the cache where there is no Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub.utils import close_session

import quantpress.download
import quantpress.hub
from quantpress.errors import CheckpointError, HubError
from quantpress.inputs import base_of, name_of
from quantpress.ledger import Ledger
from quantpress.progress import Progress
from tests.hub.conversions import ID, local, refuses, remote
from tests.hub_server import Hub


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
