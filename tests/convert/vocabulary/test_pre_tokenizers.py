"""Real tokenizer.json files' pre-tokenizers, and what llama.cpp calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantpress.checkpoint import Section
from quantpress.convert.vocabulary.expressions import PRE_TOKENIZERS
from quantpress.convert.vocabulary.pre_tokenizers import recognise
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.tokenizer_files import (
    LLAMA3,
    QWEN2,
    TEKKEN,
    byte_level,
    chain,
    digits,
    sequence,
    split,
)

GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
DEEPSEEK += "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
LING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
SEED_CODER = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+"
    "|\\s+(?!\\S)|\\s+"
)
PUNCTUATION = {"type": "Punctuation", "behavior": "Contiguous"}
OLD_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}  # before there was use_regex
STARCODER = sequence(digits(), byte_level(use_regex=True))


def tokenizer(pre_tokenizer: Any, normalizer: Any = None, **model: Any) -> Section:
    values = {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "model": model}
    return Section(Path("tokenizer.json"), values)


@pytest.mark.parametrize(
    ("name", "pre_tokenizer"),
    [
        ("gpt-2", OLD_BYTE_LEVEL),  # GPT-2, MPT, GPT-NeoX, Phi-2
        ("gpt-2", sequence(byte_level(use_regex=True))),
        ("starcoder", STARCODER),  # StarCoder, Granite, Refact
        ("dbrx", sequence(split(LLAMA3, "Removed", invert=True), byte_level())),  # Phi-4, DBRX, OLMo 2
        ("dbrx", sequence(split(LLAMA3), byte_level())),
        ("qwen2", sequence(split(QWEN2), byte_level())),
        ("qwen35", sequence(split(QWEN35), byte_level())),
        ("gpt-4o", sequence(split(GPT4O, "Removed", invert=True), byte_level())),  # Phi-4-mini
        ("gpt-4o", sequence(split(GPT4O), byte_level())),  # GPT-OSS, Llama 4
        ("tekken", sequence(split(TEKKEN), byte_level())),
        (
            "deepseek-coder",
            sequence(
                *(split(part) for part in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")),
                digits(),
                byte_level(),
            ),
        ),
        ("deepseek-v3", sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level())),
        (
            "falcon",
            sequence(PUNCTUATION, byte_level(use_regex=True), digits(individual=False), split("[0-9][0-9][0-9]")),
        ),
        ("bloom", sequence(split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), byte_level())),
        ("bailingmoe", sequence(split(LING), byte_level())),  # Ling, LLaDA
        ("seed-coder", sequence(split(SEED_CODER), byte_level())),
        ("laguna", sequence(split(r"(?:\r?\n)+(?!\r?\n)", "MergedWithNext"), split(QWEN2), byte_level())),
    ],
)
def test_recognised(name: str, pre_tokenizer: Any) -> None:
    assert recognise(tokenizer(pre_tokenizer)).name == name


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_every_row_can_be_chosen(row: Any) -> None:
    normalizer = {"type": "NFC"} if row.composes else {"type": "Sequence", "normalizers": []}
    file = tokenizer(chain(row.steps), normalizer, ignore_merges=row.ignore_merges)
    assert recognise(file, clean_spaces=row.clean_spaces) == row


def test_names_are_their_own() -> None:
    assert len({row.name for row in PRE_TOKENIZERS}) == len(PRE_TOKENIZERS)


def test_two_names_for_one_chain() -> None:
    llama3 = sequence(split(LLAMA3), byte_level())
    assert recognise(tokenizer(llama3, ignore_merges=True)).name == "llama-bpe"
    assert recognise(tokenizer(llama3, ignore_merges=False)).name == "dbrx"
    assert recognise(tokenizer(STARCODER), clean_spaces=False).name == "smollm"
    assert recognise(tokenizer(STARCODER, {"type": "NFC"}), clean_spaces=False).name == "command-r"


@pytest.mark.parametrize(
    ("pre_tokenizer", "found"),
    [
        (None, "found none"),
        (sequence(split(QWEN2.replace(r"\p{N}", r"\p{N}{1,2}", 1)), byte_level()), "(?i:'s|'t"),
        (sequence(split(QWEN2, "Removed"), byte_level()), r"\s+ Removed"),
        (sequence(split(r"\p{N}", "Removed", invert=True), byte_level()), r"\p{N} Removed inverted"),
        (sequence(digits(individual=False), byte_level(use_regex=True)), r"\p{N}+, then 's|'t"),
        (sequence({"type": "Split", "pattern": {"String": "."}, "behavior": "Isolated"}, byte_level()), r"found \."),
        (sequence({"type": "WhitespaceSplit"}, byte_level(use_regex=True)), "WhitespaceSplit, then"),
        (sequence({"type": "Punctuation"}, byte_level(use_regex=True)), "Punctuation Isolated"),
        (sequence(sequence(digits()), byte_level()), r"found \p{N}."),
    ],
)
def test_unknown(pre_tokenizer: Any, found: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise(tokenizer(pre_tokenizer))
    assert str(caught.value).startswith("tokenizer.json: pre_tokenizer: expected one that llama.cpp knows, found ")
    assert found in str(caught.value)
    assert "add a row to" in str(caught.value)


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "words"),
    [
        (byte_level() | {"add_prefix_space": True}, None, "pre_tokenizer.add_prefix_space: expected false"),
        (OLD_BYTE_LEVEL, {"type": "Lowercase"}, "normalizer: expected none, or NFC"),
        (OLD_BYTE_LEVEL, {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, "Lowercase"),
        ({"type": "Sequence", "pretokenizers": [5]}, None, "pre_tokenizer.pretokenizers: expected a list of objects"),
        (sequence({"type": "Split", "behavior": "Isolated"}), None, "pretokenizers.pattern.Regex"),
        ("ByteLevel", None, "pre_tokenizer: expected an object"),
    ],
)
def test_malformed_or_impossible(pre_tokenizer: Any, normalizer: Any, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        recognise(tokenizer(pre_tokenizer, normalizer))
    assert words in str(caught.value)
