"""Mistral's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import automatic, mistral
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.cases import CASES
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.test_sentencepiece import LLAMA2, train
from tests.convert.vocabulary.tiny import write

CASE = CASES["tekken"]


def test_tokens(tmp_path: Path) -> None:
    """Special tokens first, with fillers; then the ranks, of which those beyond the vocabulary's size are left out."""
    keys = automatic(CASE.write(tmp_path), CASE.size)
    tokens = keys["tokenizer.ggml.tokens"].value
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert tokens[19:25] == ["[TOOL_CONTENT]", *(f"<SPECIAL_{number}>" for number in range(20, 24)), "Ā"]
    assert tokens[280:] == ["he", "ll", "hell", "hello", "Ġhello", "ĊĊ"]
    assert keys["tokenizer.ggml.merges"].value == ["h e", "l l", "he ll", "hell o", "Ġ hello", "Ċ Ċ"]
    llama = Vocabulary(tmp_path, keys)
    assert [tokens[number] for number in llama.ids("hello hello\n\nhell[INST]", add_special=True)] == [
        *("<s>", "hello", "Ġhello", "ĊĊ", "hell", "[INST]"),
    ]


def test_listed_special_tokens(tmp_path: Path) -> None:
    listed = [{"rank": rank, "token_str": text} for rank, text in enumerate(("<unk>", "<s>", "</s>", "[THINK]"))]
    keys = mistral(changed(tmp_path, special_tokens=listed), CASE.size)
    assert keys["tokenizer.ggml.tokens"].value[2:5] == ["</s>", "[THINK]", "<SPECIAL_4>"]
    assert keys["tokenizer.ggml.padding_token_id"].value == 2  # EOS, as there is no <pad>


def changed(path: Path, **fields: Any) -> Checkpoint:
    file = json.loads(json.dumps(CASE.files["tekken.json"]))
    for name, value in fields.items():
        inner, _, key = name.rpartition("__")
        (file[inner] if inner else file)[key] = value
    return write(path, None, tekken=file)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"config__pattern": r"\w+"}, "config.pattern: expected the one that llama.cpp knows"),
        ({"config__default_vocab_size": None}, "config.default_vocab_size: expected a whole number"),
        ({"config__default_vocab_size": 290}, "vocab: expected 266 tokens, as config says, found '263'"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}]}, "vocab.token_bytes: expected base64"),
        ({"vocab": [{"rank": 1, "token_bytes": "AA=="}]}, "vocab.rank: expected 0, each token once"),
        ({"vocab": [{"rank": 0, "token_bytes": "AQ=="}]}, "vocab.rank: expected 0, each token once, the 256 bytes"),
        ({"vocab": [{"rank": 0, "token_bytes": "AA=="}] * 2}, "vocab.rank: expected 1"),
        ({"special_tokens": [{"rank": 24, "token_str": "x"}]}, "special_tokens.rank: expected under"),
        ({"special_tokens": [{"rank": 0, "token_str": "<SPECIAL_1>"}]}, "token 1: expected a text of its own"),
        (
            {"special_tokens": [{"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}]},
            "special tokens: expected <unk>, found no such token",
        ),
    ],
)
def test_malformed(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        mistral(changed(tmp_path, **fields), 300)
    assert words in str(caught.value)


def test_larger_than_the_embedding(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vocabulary: expected ids under vocab_size, 285, found id 285 for 'ĊĊ'"):
        mistral(CASE.write(tmp_path), 285)


def test_sentencepiece_files(tmp_path: Path) -> None:
    """The file of the highest version."""
    for version, size in (("v1", 800), ("v3", 900)):
        options = LLAMA2 | {"control_symbols": [f"[{version}]"]}
        (tmp_path / f"tokenizer.model.{version}").write_bytes(train("bpe", **options | {"vocab_size": size}))
    keys = automatic(Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {}), 1000)
    assert "[v3]" in keys["tokenizer.ggml.tokens"].value
    assert keys["tokenizer.ggml.padding_token_id"].value == keys["tokenizer.ggml.eos_token_id"].value == 2
    assert keys["tokenizer.ggml.add_bos_token"].value is True


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"tokenizer: expected tekken\.json or tokenizer\.model\.v\*, found neither"
    ):
        mistral(Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {}), 300)
