"""Tokenizers that cannot be converted: one clear error each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import automatic
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.cases import bpe
from tests.convert.vocabulary.tiny import write
from tests.convert.vocabulary.tokenizer_files import LLAMA3, added, byte_level, sequence, split

SIZE = 270
FIRST_FREE = 263


def file(**fields: Any) -> dict[str, Any]:
    """A tokenizer.json with changed fields; `model__…` in its model."""
    values = bpe(byte_level(use_regex=True), "<|end|>")
    for name, value in fields.items():
        inner, _, key = name.rpartition("__")
        (values[inner] if inner else values)[key] = value
    return json.loads(json.dumps(values))


def vocabulary(**more: Any) -> dict[str, Any]:
    return file()["model"]["vocab"] | more


def test_as_it_is(tmp_path: Path) -> None:
    keys = automatic(write(tmp_path, file()), SIZE)
    assert keys["tokenizer.ggml.tokens"].value[FIRST_FREE - 1 :] == [
        "ĊĊ",
        "<|end|>",
        *(f"[PAD{n}]" for n in range(264, 270)),
    ]


def test_older_files_name_no_type(tmp_path: Path) -> None:
    without = {key: value for key, value in file()["model"].items() if key != "type"}
    assert automatic(write(tmp_path, file(model=without)), SIZE) == automatic(write(tmp_path, file()), SIZE)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": {}}, "model.type: expected one that llama.cpp knows: BPE, Unigram, WordPiece, found None"),
        ({"model__type": "WordLevel"}, "model.type: expected one that llama.cpp knows"),
        ({"model": 5}, "model: expected an object"),
        ({"model__type": 5}, "model.type: expected a string"),
        ({"model__vocab": vocabulary(x="5")}, "model.vocab.x: expected a whole number"),
        ({"model__vocab": vocabulary(x=-1)}, "model.vocab.x: expected a whole number from 0 on, found -1"),
        ({"model__vocab": vocabulary(xy=5)}, "model.vocab.xy: expected an id of its own"),
        ({"model__vocab": vocabulary(xy=270)}, "vocabulary: expected ids under vocab_size, 270, found id 270 for 'xy'"),
        ({"model__merges": []}, "model.merges: expected a list of pairs"),
        ({"model__merges": ["h"]}, "model.merges[0]: expected two tokens of the vocabulary"),
        ({"model__merges": ["h e", "a b c"]}, "model.merges[1]"),
        ({"model__merges": [["h", "e"], ["q", "zz"]]}, "model.merges[1]: expected two tokens of the vocabulary"),
        ({"model__merges": [["h", "q"]]}, "model.merges[0]"),  # both are tokens, hq is not
        ({"model__merges": [[5, 6]]}, "model.merges[0]"),
        ({"model__merges": {"h": "e"}}, "model.merges: expected a list"),
        ({"model__end_of_word_suffix": "</w>"}, "model.end_of_word_suffix: expected none"),
        ({"model__dropout": 0.1}, "model.dropout: expected none"),
        ({"added_tokens": [{"content": "x"}]}, "added_tokens.id: expected a whole number"),
        ({"added_tokens": [{"id": 264}]}, "added_tokens.content: expected a string"),
        ({"added_tokens": ["x"]}, "added_tokens: expected a list of objects"),
        ({"added_tokens": [added(5, "x")]}, "added_tokens.content: expected '&', which has the id 5 already"),
        ({"added_tokens": [added(265, "x"), added(265, "y")]}, "expected 'x', which has the id 265 already"),
        ({"added_tokens": [added(265, "<x>"), added(266, "<x>")]}, "token 266: expected a text of its own"),
        ({"added_tokens": [added(264, "[PAD265]")]}, "token 265: expected a text of its own"),
        ({"pre_tokenizer": split(LLAMA3)}, "pre_tokenizer: expected one with a ByteLevel step, found 'Split'"),
    ],
)
def test_malformed(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        automatic(write(tmp_path, file(**fields)), SIZE)
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert words in str(caught.value)


def test_tokens_that_only_ignore_merges_gives(tmp_path: Path) -> None:
    """llama.cpp has no name for that: it would write xyz in pieces."""
    fields = {"model__vocab": vocabulary(xyz=265), "model__ignore_merges": True}
    with pytest.raises(CheckpointError, match=r"model\.ignore_merges: expected false.*gpt-2.*1 that no merge gives"):
        automatic(write(tmp_path, file(**fields)), SIZE)
    fields |= {"pre_tokenizer": sequence(split(LLAMA3), byte_level())}
    assert automatic(write(tmp_path, file(**fields)), SIZE)["tokenizer.ggml.pre"].value == "llama-bpe"


def test_settings_contradict_the_vocabulary(tmp_path: Path) -> None:
    settings = {"added_tokens_decoder": {"5": {"content": "x"}}}
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config\.json: added_tokens_decoder\.5\.content: expected '&'"
    ):
        automatic(write(tmp_path, file(), tokenizer_config=settings), SIZE)


def test_added_tokens_beyond_the_embedding_are_left_out(tmp_path: Path) -> None:
    """Image tokens of a text model: they have no rows."""
    tokens = [added(263, "<|end|>", special=True), added(999, "<image>", special=True)]
    keys = automatic(write(tmp_path, file(added_tokens=tokens)), SIZE)
    assert "<image>" not in keys["tokenizer.ggml.tokens"].value


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"tokenizer: expected one of tokenizer\.model, tokenizer\.json, tekken\.json"
    ):
        automatic(Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {}), SIZE)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": ' * 5000])
def test_no_json(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: file: expected"):
        automatic(Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {}), SIZE)
