"""SentencePiece model files through llama.cpp: the ids of the sentencepiece package."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import automatic
from quantpress.convert.vocabulary import sentencepiece as kind
from quantpress.convert.vocabulary.sentencepiece_model import read_sentencepiece_model
from quantpress.convert.vocabulary.token_table import TokenType
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.tiny import corpus

SIZE = 1000


def train(model_type: str, **options: Any) -> bytes:
    """A model of 900 pieces, unless `options` say otherwise."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=out,
        model_type=model_type,
        **{"vocab_size": 900, **options},
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


LLAMA2 = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.98,
    "user_defined_symbols": ["<user>", "▁▁▁"],
    "control_symbols": ["[INST]"],
}


@pytest.fixture(scope="module")
def model() -> bytes:
    return train("bpe", **LLAMA2)


def folder(path: Path, model: bytes, **files: Any) -> Checkpoint:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return Checkpoint(path, Section(path / "config.json", {}), {})


def differing(path: Path, keys: Metadata, reference: sentencepiece.SentencePieceProcessor) -> set[str]:
    """The texts without special tokens of which llama.cpp has other ids."""
    llama = Vocabulary(path, keys)
    texts = {label: text for label, text in HARD_STRINGS.items() if label not in ("special tokens", "lookalikes")}
    return {label for label, text in texts.items() if llama.ids(text) != reference.encode(text)}


@pytest.mark.parametrize("prefix", [True, False])
def test_ids(prefix: bool, tmp_path: Path) -> None:
    symbols = ["<user>"] if prefix else ["<user>", "▁▁▁"]  # to sentencepiece, the prefix is part of a run of spaces
    model = train("bpe", **LLAMA2 | {"user_defined_symbols": symbols, "add_dummy_prefix": prefix})
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    keys = automatic(folder(tmp_path, model), SIZE)
    assert ("tokenizer.ggml.add_space_prefix" not in keys) == prefix
    assert differing(tmp_path, keys, reference) == set()


def test_bytes_that_are_no_text(model: bytes, tmp_path: Path) -> None:
    """They fall back to the tokens of the bytes, as sentencepiece cannot be asked."""
    llama = Vocabulary(tmp_path, kind(folder(tmp_path, model), SIZE))
    tokens = kind(folder(tmp_path, model), SIZE)["tokenizer.ggml.tokens"].value
    assert [tokens[number] for number in llama.ids(b"\xff\xfe")] == ["▁", "<0xFF>", "<0xFE>"]


def test_pieces_are_those_of_the_sentencepiece_package(model: bytes, tmp_path: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = read_sentencepiece_model(folder(tmp_path, model).path / "tokenizer.model").pieces
    assert len(pieces) == reference.get_piece_size()
    for number, piece in enumerate(pieces):
        assert (piece.text, piece.score) == (reference.id_to_piece(number), reference.get_score(number))
        assert (piece.type is TokenType.BYTE) == reference.is_byte(number)
        assert (piece.type is TokenType.CONTROL) == reference.is_control(number)
        assert (piece.type is TokenType.UNKNOWN) == reference.is_unknown(number)


@pytest.mark.parametrize("listed", [True, False])
def test_user_defined_pieces_are_cut_out_of_a_text(listed: bool, model: bytes, tmp_path: Path) -> None:
    """Unless tokenizer_config.json lists what is. llama.cpp's converter has them as normal ones, which it may lose."""
    settings = {"added_tokens_decoder": {"1": {"content": "<s>", "special": True}}} if listed else {}
    keys = kind(folder(tmp_path, model, tokenizer_config=settings), SIZE)
    typed = zip(keys["tokenizer.ggml.tokens"].value, keys["tokenizer.ggml.token_type"].value, strict=True)
    assert [text for text, number in typed if number == TokenType.USER_DEFINED] == ([] if listed else ["<user>", "   "])


def test_added_tokens_replace_pieces_and_follow_them(model: bytes, tmp_path: Path) -> None:
    added = {"900": {"content": "<|end|>", "special": False}, "901": {"content": "two▁words", "special": False}}
    listed = [{"id": 3, "content": "<user>", "special": True}, {"id": 902, "content": "<new>", "special": True}]
    keys = kind(
        folder(
            tmp_path,
            model,
            tokenizer_config={"added_tokens_decoder": added, "eos_token": "</s>"},
            added_tokens={"<old>": 903, "<beyond>": 5000},
            tokenizer={"added_tokens": listed},
        ),
        905,
    )
    tokens, types = keys["tokenizer.ggml.tokens"].value, keys["tokenizer.ggml.token_type"].value.tolist()
    assert tokens[900:] == ["<|end|>", "two words", "<new>", "<old>", "[PAD904]"]
    assert types[900:] == [3, 4, 3, 4, 5]
    assert keys["tokenizer.ggml.scores"].value[900:].tolist() == [-1000.0] * 4 + [-10000.0]


@pytest.mark.parametrize("setting", [True, False])
def test_space_prefix_of_the_settings(setting: bool, model: bytes, tmp_path: Path) -> None:
    keys = kind(folder(tmp_path, model, tokenizer_config={"add_prefix_space": setting}), SIZE)
    assert keys["tokenizer.ggml.add_space_prefix"].value is setting


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "found no pieces"),
        (lambda data: data[:-10], "ends beyond its message"),
        (lambda data: data[:2000], "a SentencePiece model"),
        (lambda data: b"\x40\x01" * 20, "no pieces"),
        (lambda data: b"\xff" * 40, "a number without an end"),
        (lambda data: b"\x00\x00", "a field with the number 0"),
        (lambda data: b"\x0a\x03\x0a\x01a", "no trainer_spec"),
        (lambda data: b"\x08\x01" + data, "a number where a message or text should be"),
    ],
)
def test_malformed(change: Any, words: str, model: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: tokenizer: expected a SentencePiece model") as caught:
        kind(folder(tmp_path, change(model)), SIZE)
    assert words in str(caught.value)


def test_every_byte_of_the_file_may_be_wrong(model: bytes, tmp_path: Path) -> None:
    """A flipped byte gives a vocabulary or a CheckpointError, nothing else."""
    for place in range(0, len(model), 97):
        damaged = bytearray(model)
        damaged[place] ^= 0xA5
        with contextlib.suppress(CheckpointError):
            kind(folder(tmp_path, bytes(damaged)), SIZE)


def test_larger_than_the_embedding(model: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="pieces: expected at most vocab_size, 899, found 900"):
        kind(folder(tmp_path, model), 899)


def test_without_bytes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="bytes: expected a token for each byte, found no <0x00>, nor 255 others"):
        kind(folder(tmp_path, train("bpe")), SIZE)


@pytest.mark.parametrize(("model_type", "found"), [("word", "word"), ("char", "character")])
def test_other_kinds_of_models(model_type: str, found: str, tmp_path: Path) -> None:
    data = train(model_type, hard_vocab_limit=False)
    with pytest.raises(CheckpointError, match=f"model_type: expected BPE or unigram, found {found}"):
        kind(folder(tmp_path, data), 5000)
