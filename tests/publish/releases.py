"""A release in its form, and what tests ask of its publication."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from quantpress.errors import QuantpressError
from quantpress.progress import Progress
from quantpress.publish import Publication
from tests.hub_uploads import UploadHub

CHECK = import_module("quantpress.check")  # the module: the package has a function of its name
ID = "acme/Tiny-GGUF"
MODELS = ("Tiny-Q8_0.gguf", "Tiny-BF16/Tiny-BF16-00001-of-00002.gguf", "Tiny-BF16/Tiny-BF16-00002-of-00002.gguf")
OTHERS = ("README.zh.md", "calibration.txt", "plots/frontier.png", "plots/frontier.svg", "report.html", "results.json")
PUBLISHED = sorted((*MODELS, *OTHERS, "LICENSE", "README.md", "release.json"))
LARGE = 100_000  # bytes of each model


class Notes(Progress):
    """What the user was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def __str__(self) -> str:
        return "\n".join(self.lines)


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


def change(folder: Path, **facts: object) -> None:
    path = folder / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **facts}), encoding="utf-8")
