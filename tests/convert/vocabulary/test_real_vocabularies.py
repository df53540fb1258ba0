"""Published vocabularies, where this machine has them.

llama.cpp's sources, which the llama-cpp-python sdist carries, have vocabularies with texts and the ids that their
models have for them; LLAMA_CPP names the folder. They have no tokenizer.json, so it is written here, with the
pre-tokenizer of our table: Hugging Face's tokenizers must give those ids, and the keys that we make of it must be those
of the vocabulary's file. mistral-common carries Mistral's files, and a tokenizer of its own to compare with.
"""

from __future__ import annotations

import importlib.resources
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import automatic, byte_level_bpe, gemma4, sentencepiece_json
from quantpress.convert.vocabulary.expressions import PRE_TOKENIZERS
from quantpress.convert.vocabulary.token_table import TokenType
from quantpress.gguf import Metadata, read
from tests.convert.vocabulary.cases import sentencepiece_file
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.tiny import write
from tests.convert.vocabulary.tokenizer_files import added, chain

LLAMA_CPP = os.environ.get("LLAMA_CPP")
needs_llama_cpp = pytest.mark.skipif(not LLAMA_CPP, reason="LLAMA_CPP does not name a folder of llama.cpp's sources")

NAMES = {"mpt": "gpt-2", "refact": "starcoder"} | {
    name: name
    for name in (
        *("gpt-2", "starcoder", "falcon", "command-r", "llama-bpe", "qwen2", "qwen35"),
        *("deepseek-llm", "deepseek-coder"),
    )
}
"""Vocabulary file → the name that we write, which llama.cpp treats alike."""

KEYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")
MARKS = {"qwen35": 3}  # texts of combining marks, which the model's own tokenizer composes first and llama.cpp does not


def vocabulary(name: str) -> tuple[Metadata, list[tuple[str, list[int]]]]:
    """The keys of a vocabulary-only file, and texts with their ids."""
    path = Path(str(LLAMA_CPP)) / "models" / f"ggml-vocab-{name}.gguf"
    with read(path) as file:
        keys = dict(file.metadata)
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    return keys, [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=False)]


def by_type(keys: Metadata) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The base vocabulary, and the added tokens."""
    tokens, types = keys["tokenizer.ggml.tokens"].value, keys["tokenizer.ggml.token_type"].value.tolist()
    base = {text: number for number, text in enumerate(tokens) if types[number] in (TokenType.NORMAL, TokenType.BYTE)}
    special = [
        added(number, text, special=types[number] == TokenType.CONTROL)
        for number, text in enumerate(tokens)
        if text not in base and not text.startswith("[PAD")
    ]
    return base, special


@needs_llama_cpp
@pytest.mark.parametrize("name", NAMES)
def test_byte_level_bpe(name: str, tmp_path: Path) -> None:
    expected, texts = vocabulary(name)
    row = next(row for row in PRE_TOKENIZERS if row.name == NAMES[name])
    base, special = by_type(expected)
    file = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "NFC"} if row.composes else None,
        "pre_tokenizer": chain(row.steps),
        "model": {
            "type": "BPE",
            "vocab": base,
            "merges": expected["tokenizer.ggml.merges"].value,
            "ignore_merges": row.ignore_merges,
        },
    }
    reference = Tokenizer.from_str(json.dumps(file))
    different = [text for text, ids in texts if reference.encode(text, add_special_tokens=False).ids != ids]
    assert len(different) == MARKS.get(name, 0)
    settings = {"clean_up_tokenization_spaces": row.clean_spaces}
    size = len(expected["tokenizer.ggml.tokens"].value)
    keys = byte_level_bpe(write(tmp_path, file, tokenizer_config=settings), size)
    assert keys["tokenizer.ggml.pre"].value == NAMES[name]
    assert {key: keys[key] == expected[key] for key in KEYS} == dict.fromkeys(KEYS, True)
    llama = Vocabulary(tmp_path, keys)
    assert [text for text, ids in texts if llama.ids(text) != ids] == []


@needs_llama_cpp
def test_gemma4(tmp_path: Path) -> None:
    """All keys, and the same ids by the scores that we give merges for llama.cpp's other tokenizer."""
    expected, texts = vocabulary("gemma-4")
    base, special = by_type(expected)
    file = sentencepiece_file() | {"added_tokens": [token | {"special": True} for token in special]}
    file["post_processor"] = None
    file["model"] |= {
        "vocab": base | {token["content"]: token["id"] for token in special},
        "merges": [merge.split(" ") for merge in expected["tokenizer.ggml.merges"].value],
    }
    settings = {f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "unk", "pad", "mask")}
    settings["chat_template"] = expected["tokenizer.chat_template"].value
    checkpoint = write(tmp_path, file, tokenizer_config=settings)
    size = len(expected["tokenizer.ggml.tokens"].value)
    keys = gemma4(checkpoint, size)
    assert keys == {key: value for key, value in expected.items() if key.startswith("tokenizer.")}
    for kind in (keys, sentencepiece_json(checkpoint, size)):
        llama = Vocabulary(tmp_path, kind)
        assert [text for text, ids in texts if llama.ids(text) != ids] == []


MISTRAL = (
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240323.model.v3",
    "tekken_240718.json",
    "tekken_240911.json",
)


@pytest.mark.parametrize("name", MISTRAL)
def test_mistral(name: str, tmp_path: Path) -> None:
    mistral_common = pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    source = Path(str(importlib.resources.files(mistral_common) / "data" / name))
    is_tekken = source.suffix == ".json"
    shutil.copy(source, tmp_path / ("tekken.json" if is_tekken else name))
    reference = MistralTokenizer.from_file(str(source)).instruct_tokenizer.tokenizer
    checkpoint = Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {})
    llama = Vocabulary(tmp_path, automatic(checkpoint, reference.n_words))
    # llama.cpp's expression for tekken knows letters, but no marks: see test_byte_level_bpe.py
    assert {
        label
        for label, text in HARD_STRINGS.items()
        if llama.ids(text, parse_special=False) != reference.encode(text, bos=False, eos=False)
    } == ({"Thai and Khmer", "Devanagari"} if is_tekken else set())
