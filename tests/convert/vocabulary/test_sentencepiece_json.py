"""SentencePiece-like BPE from tokenizer.json through llama.cpp: the ids of Hugging Face's tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, trainers

from quantpress.checkpoint import read
from quantpress.convert.vocabulary import automatic, gemma4, sentencepiece_json
from quantpress.errors import CheckpointError
from tests.checkpoints import DEMO
from tests.convert.vocabulary.cases import sentencepiece_file
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.tiny import corpus, write
from tests.convert.vocabulary.tokenizer_files import added

SIZE = 1600
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
LINES = {"type": "Split", "pattern": {"Regex": "\n+"}, "behavior": "Isolated", "invert": False}
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def trained(normalizer: Any, lines: bool) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {}, "merges": [], "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    empty = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": model}
    tokenizer = Tokenizer.from_str(json.dumps(empty | {"pre_tokenizer": LINES if lines else None}))
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False, limit_alphabet=200, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(corpus(), trainer)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if not token["content"].startswith("<0x")]
    file["added_tokens"].append(added(len(file["model"]["vocab"]), "<extra>"))
    return file | {"pre_tokenizer": None}


@pytest.fixture(scope="module")
def prefixed() -> dict[str, Any]:
    return trained(PREPEND, lines=False)


@pytest.fixture(scope="module")
def bare() -> dict[str, Any]:
    """Lines are cut apart, as in Gemma's vocabulary, whose merges do not go across them either."""
    return trained(REPLACE, lines=True)


def differing(path: Path, keys: Any, file: dict[str, Any]) -> set[str]:
    llama, reference = Vocabulary(path, keys), Tokenizer.from_str(json.dumps(file))
    return {
        label
        for label, text in HARD_STRINGS.items()
        if llama.ids(text) != reference.encode(text, add_special_tokens=False).ids
    }


def test_ids_with_a_prefix(prefixed: dict[str, Any], tmp_path: Path) -> None:
    keys = automatic(write(tmp_path, prefixed), SIZE)
    assert "tokenizer.ggml.add_space_prefix" not in keys
    assert differing(tmp_path, keys, prefixed) == set()


def test_ids_with_a_prefix_at_the_start_only(prefixed: dict[str, Any], tmp_path: Path) -> None:
    """Newer files put no space before a text that has one, nor after special tokens; llama.cpp always does."""
    file = prefixed | {"normalizer": None, "pre_tokenizer": metaspace("first")}
    keys = automatic(write(tmp_path, file), SIZE)
    assert differing(tmp_path, keys, file) == {"spaces", "blank", "special tokens", "lookalikes"}


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"), [(REPLACE, None), (REPLACE, SPLIT), (None, metaspace("never"))]
)
@pytest.mark.parametrize("kind", [sentencepiece_json, gemma4])
def test_ids_without_a_prefix(
    kind: Any, normalizer: Any, pre_tokenizer: Any, bare: dict[str, Any], tmp_path: Path
) -> None:
    file = bare | {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    keys = kind(write(tmp_path, file), SIZE)
    assert keys["tokenizer.ggml.add_space_prefix"].value is False
    assert differing(tmp_path, keys, file) == set()


def test_scores_of_llama_cpps_converter_give_other_ids(bare: dict[str, Any], tmp_path: Path) -> None:
    """Which is why ours differ: one score for all merges from left to right, whatever the file says."""
    keys = sentencepiece_json(write(tmp_path, bare), SIZE)
    scores = keys["tokenizer.ggml.scores"]
    same = type(scores)(scores.type, scores.value * 0 - 1000, scores.item)
    assert "words" in differing(tmp_path, keys | {"tokenizer.ggml.scores": same}, bare)


def test_same_ids_as_the_model_file(tmp_path: Path) -> None:
    """The bundled checkpoint has both."""
    checkpoint = read(DEMO)
    size = checkpoint.config.integer("vocab_size")
    (tmp_path / "file").mkdir()
    (tmp_path / "json").mkdir()
    model = Vocabulary(tmp_path / "file", automatic(checkpoint, size))
    file = Vocabulary(tmp_path / "json", sentencepiece_json(checkpoint, size))
    assert [file.ids(text) for text in HARD_STRINGS.values()] == [model.ids(text) for text in HARD_STRINGS.values()]


def test_invalid_utf_8(bare: dict[str, Any], tmp_path: Path) -> None:
    keys = sentencepiece_json(write(tmp_path, bare), SIZE)
    tokens = keys["tokenizer.ggml.tokens"].value
    assert [tokens[number] for number in Vocabulary(tmp_path, keys).ids(b"\xff")] == ["<0xFF>"]


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("model", {"byte_fallback": False}, "model.byte_fallback: expected true"),
        (None, {"normalizer": {"type": "NFKC"}}, "normalizer: expected spaces marked by ▁, and nothing else"),
        (None, {"normalizer": None, "pre_tokenizer": None}, "normalizer: expected spaces marked by ▁"),
        (None, {"normalizer": None, "pre_tokenizer": metaspace("never") | {"replacement": "_"}}, "spaces marked by ▁"),
        (None, {"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "pre_tokenizer: expected none"),
        (None, {"normalizer": PREPEND}, "no space before a text"),
        ("model", {"merges": [["h", "z"]]}, "model.merges[0]: expected two tokens of the vocabulary"),
        ("model", {"vocab": {"<0x00>": 0, "a": 1}}, "bytes: expected a token for each byte, found no <0x01>, nor 254"),
    ],
)
def test_impossible(section: str | None, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = sentencepiece_file()
    (file[section] if section else file).update(fields)
    if "vocab" in fields:
        file["added_tokens"] = []
    with pytest.raises(CheckpointError) as caught:
        gemma4(write(tmp_path, file), 400)
    assert words in str(caught.value)


def test_tokens_across_spaces_that_are_cut(tmp_path: Path) -> None:
    file = sentencepiece_file() | {"normalizer": None, "pre_tokenizer": metaspace("never", split=True)}
    keys = sentencepiece_json(write(tmp_path, file), 400)
    assert keys["tokenizer.ggml.model"].value == "llama"
    file["model"]["vocab"]["a▁b"] = 300
    with pytest.raises(
        CheckpointError, match=r"pre_tokenizer\.split: expected false, as tokens such as 'a▁b' go across"
    ):
        sentencepiece_json(write(tmp_path, file), 400)
