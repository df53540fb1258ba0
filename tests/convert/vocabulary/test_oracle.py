"""Our keys against those of llama.cpp's own converter, for a small vocabulary of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.convert.oracle import kept
from tests.convert.vocabulary.cases import CASES

DIFFERENT = {
    # it gives all pieces one score, and with that other tokens than the file's merges do; and it leaves out that
    # nothing goes before a text, which llama.cpp takes for granted: see test_sentencepiece_json.py
    "sentencepiece-json": {"tokenizer.ggml.scores", "tokenizer.ggml.add_space_prefix"},
    # its scores are zeros too, but whole numbers; and it takes a template of its own instead of the checkpoint's
    "tekken": {"tokenizer.ggml.scores", "tokenizer.chat_template"},
}
"""Keys that differ by design."""


@pytest.fixture(scope="module")
def oracle(data: Path) -> dict[str, Any]:
    return json.loads((data / "vocabulary" / "oracle.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_equals_llama_cpp(name: str, oracle: dict[str, Any], tmp_path: Path) -> None:
    case = CASES[name]
    ours = {
        key: kept(value.type.name, value.item.name if value.item is not None else None, value.value)
        for key, value in case.kind(case.write(tmp_path), case.size).items()
    }
    expected = oracle[name]
    different = {key for key in ours.keys() | expected.keys() if ours.get(key) != expected.get(key)}
    assert different == DIFFERENT.get(name, set()), {key: (ours.get(key), expected.get(key)) for key in different}
