"""A model on a Hub that runs here, and its conversion from there and from a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.convert import convert
from quantpress.errors import QuantpressError

ID = "acme/Tiny-Gemma-3-1B-it"
HEAD = 512  # bytes of a shard that are asked for first, instead of more than these small ones have


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


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
