"""A checkpoint, an empty cache of the library's, and a Hub."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub.utils import close_session

from quantpress.checkpoint import read
from quantpress.convert.sources import stored
from tests.checkpoints import tiny, write_shards
from tests.hub.conversions import HEAD, ID
from tests.hub_server import Hub, fresh_library, serving


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
    fresh_library(monkeypatch, home, timeout=5, first=HEAD)
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
