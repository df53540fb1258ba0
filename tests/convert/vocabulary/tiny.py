"""Small vocabularies, trained here: a folder with the files that a checkpoint of that kind has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers

from quantpress.checkpoint import Checkpoint, Section
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.tokenizer_files import byte_level

SPECIAL = ("<s>", "</s>", "<|end|>")
EXTRA = "<extra>"


def corpus() -> list[str]:
    prose = (Path(__file__).parents[2] / "data" / "prose.txt").read_text(encoding="utf-8")
    return [*prose[:20_000].split("\n\n"), *(text for text in HARD_STRINGS.values() for _ in range(4))]


def across() -> Tokenizer:
    """Byte-level BPE whose merges go across every boundary: a piece that is cut at another place has other tokens."""
    return trained(byte_level())


def trained(pre_tokenizer: Mapping[str, Any]) -> Tokenizer:
    """Byte-level BPE whose merges are of the pieces that a pre-tokenizer cuts."""
    empty = {"version": "1.0", "pre_tokenizer": pre_tokenizer, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(empty | {"added_tokens": []}))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500, show_progress=False, initial_alphabet=alphabet, special_tokens=list(SPECIAL)
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([EXTRA])
    return tokenizer


def write(folder: Path, tokenizer: Mapping[str, Any] | None, **files: Mapping[str, Any]) -> Checkpoint:
    """A folder with tokenizer.json and other files (their names without .json)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**({"tokenizer": tokenizer} if tokenizer else {}), **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Checkpoint(folder, Section(folder / "config.json", files.get("config", {})), {})
