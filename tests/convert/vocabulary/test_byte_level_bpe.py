"""Byte-level BPE through llama.cpp: the ids of Hugging Face's tokenizers, for every pre-tokenizer of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from quantpress.convert.vocabulary import byte_level_bpe
from quantpress.convert.vocabulary.expressions import PRE_TOKENIZERS, PreTokenizer
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.tiny import across, trained, write
from tests.convert.vocabulary.tokenizer_files import chain

SIZE = 1600

OWN = {"falcon", "deepseek-llm"}
"""Digits and letters are cut apart by the tokenizers of these, and by llama.cpp where merges are those of the model."""

_MARKS = {"accents apart", "Thai and Khmer", "Devanagari"}  # llama.cpp's expression has no marks, only letters
_COMPOSED = {"accents apart"}  # NFC, which llama.cpp does not
DIFFERENT = {
    "command-r": _COMPOSED,
    "qwen2": _COMPOSED,
    "stablelm2": _COMPOSED,
    "qwen35": _COMPOSED,
    # llama.cpp takes a letter that is not a to z for a capital and for a small one: no boundary before ＡＢＣ
    "gpt-4o": _MARKS | {"Japanese"},
    "tekken": _MARKS | {"Japanese"},
    "tiny_aya": {"Japanese", "Chinese"},  # and \b knows no letters but a to z
    "deepseek-coder": {"unusual spaces"},  # U+2028 is a space to llama.cpp
    "laguna": {"newlines"},  # llama.cpp's expression knows no \r\n
}
"""Where llama.cpp's engine departs from the expressions: all of it, so that nothing else can."""


@pytest.fixture(scope="module")
def vocabulary() -> dict[str, Any]:
    return json.loads(across().to_str())


def tokenizer_file(row: PreTokenizer, vocabulary: dict[str, Any]) -> dict[str, Any]:
    if row.name in OWN:
        vocabulary = json.loads(trained(chain(row.steps)).to_str())
    return {
        **vocabulary,
        "pre_tokenizer": chain(row.steps),
        "normalizer": {"type": "NFC"} if row.composes else None,
        "model": vocabulary["model"] | {"ignore_merges": row.ignore_merges},
    }


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_ids(row: PreTokenizer, vocabulary: dict[str, Any], tmp_path: Path) -> None:
    file = tokenizer_file(row, vocabulary)
    reference = Tokenizer.from_str(json.dumps(file))
    checkpoint = write(tmp_path, file, tokenizer_config={"clean_up_tokenization_spaces": row.clean_spaces})
    keys = byte_level_bpe(checkpoint, SIZE)
    assert keys["tokenizer.ggml.pre"].value == row.name
    llama = Vocabulary(tmp_path, keys)
    expected = {label: reference.encode(text, add_special_tokens=False).ids for label, text in HARD_STRINGS.items()}
    found = {label: llama.ids(text) for label, text in HARD_STRINGS.items()}
    assert {label for label in expected if expected[label] != found[label]} == DIFFERENT.get(row.name, set())


def test_bytes_that_are_no_text(vocabulary: dict[str, Any], tmp_path: Path) -> None:
    """llama.cpp reads each as the replacement character."""
    llama = Vocabulary(tmp_path, byte_level_bpe(write(tmp_path, vocabulary_of("gpt-2", vocabulary)), SIZE))
    assert llama.ids(b"a\xffb \xc3") == llama.ids("a\ufffdb \ufffd")


def vocabulary_of(name: str, vocabulary: dict[str, Any]) -> dict[str, Any]:
    return tokenizer_file(next(row for row in PRE_TOKENIZERS if row.name == name), vocabulary)


def test_bos_that_llama_cpp_would_add(vocabulary: dict[str, Any], tmp_path: Path) -> None:
    """llama.cpp adds BOS for llama-bpe by default; a tokenizer.json without a post-processor adds nothing."""
    file = vocabulary_of("llama-bpe", vocabulary)
    keys = byte_level_bpe(write(tmp_path, file, tokenizer_config={"bos_token": "<s>"}), SIZE)
    assert keys["tokenizer.ggml.add_bos_token"].value is False
    assert Vocabulary(tmp_path, keys).ids("a", add_special=True) == Vocabulary(tmp_path, keys).ids("a")


def test_merges_that_give_every_token_need_no_flag(vocabulary: dict[str, Any], tmp_path: Path) -> None:
    """GPT-OSS says ignore_merges, of which llama.cpp's gpt-4o knows nothing; the tokens are the same.

    So they are with all of o200k_base: its ranks as merges give each of its 199,998 tokens.
    """
    file = vocabulary_of("gpt-4o", vocabulary)
    file["model"]["ignore_merges"] = True
    assert byte_level_bpe(write(tmp_path, file), SIZE)["tokenizer.ggml.pre"].value == "gpt-4o"


def test_spaces_in_merges(vocabulary: dict[str, Any], tmp_path: Path) -> None:
    file = vocabulary_of("gpt-2", vocabulary)
    file["model"]["vocab"] |= {"a b": 1590, "a bc": 1591}
    file["model"]["merges"] = [["a ", "b"], ["a b", "c"]]
    file["model"]["vocab"] |= {"a ": 1592}
    keys = byte_level_bpe(write(tmp_path, file), SIZE)
    assert keys["tokenizer.ggml.merges"].value == ["aĠ b", "aĠb c"]
