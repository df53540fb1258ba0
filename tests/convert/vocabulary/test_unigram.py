"""Unigram vocabularies through llama.cpp: the ids of the sentencepiece package, and of Hugging Face's tokenizers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import automatic, unigram
from quantpress.convert.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece_model
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.cases import CASES, template
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.test_sentencepiece import train
from tests.convert.vocabulary.tiny import write
from tests.convert.vocabulary.tokenizer_files import added

SIZE = 1000
PLAIN = {label: text for label, text in HARD_STRINGS.items() if label not in ("special tokens", "lookalikes")}


@pytest.fixture(scope="module")
def model() -> bytes:
    return train("unigram", normalization_rule_name="nmt_nfkc")


@pytest.fixture(scope="module")
def parsed(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> SentencePieceModel:
    path = tmp_path_factory.mktemp("unigram") / "spiece.model"
    path.write_bytes(model)
    return read_sentencepiece_model(path)


def model_folder(path: Path, name: str, model: bytes) -> Checkpoint:
    (path / name).write_bytes(model)
    return Checkpoint(path, Section(path / "config.json", {}), {})


def equally_likely(found: list[int], expected: list[int], model: SentencePieceModel) -> bool:
    """The same ids, or the same text and the same likelihood: "." and ".." for "..." or the other way around."""
    texts, scores = zip(
        *(
            ("".join(model.pieces[number].text for number in ids), sum(model.pieces[number].score for number in ids))
            for ids in (found, expected)
        ),
        strict=True,
    )
    return found == expected or (texts[0] == texts[1] and abs(scores[0] - scores[1]) < 1e-3)


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model"])
def test_ids_of_a_model_file(name: str, model: bytes, parsed: SentencePieceModel, tmp_path: Path) -> None:
    checkpoint = model_folder(tmp_path, name, model)
    keys = automatic(checkpoint, SIZE)
    llama, reference = Vocabulary(tmp_path, keys), sentencepiece.SentencePieceProcessor(model_proto=model)
    for label, text in PLAIN.items():
        assert equally_likely(llama.ids(text), reference.encode(text), parsed), label


def test_ids_of_xlm_roberta(model: bytes, tmp_path: Path) -> None:
    """fairseq's ids: <s>, <pad>, </s>, <unk>, then the pieces, one further than in the file; <mask> is the last."""
    checkpoint = model_folder(tmp_path, "sentencepiece.bpe.model", model)
    settings = {"added_tokens_decoder": {"3": {"content": "<unk>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    keys = unigram(checkpoint, 902)
    assert keys["tokenizer.ggml.unknown_token_id"].value == 3
    tokens = keys["tokenizer.ggml.tokens"].value
    assert (tokens[:4], tokens[901]) == (["<s>", "<pad>", "</s>", "<unk>"], "<mask>")
    llama, reference = Vocabulary(tmp_path, keys), sentencepiece.SentencePieceProcessor(model_proto=model)
    text = PLAIN["words"]
    assert llama.ids(text) == [number + 1 if number else 3 for number in reference.encode(text)]


def tokenizer_file(parsed: SentencePieceModel, *, split: bool) -> dict[str, Any]:
    """XLM-RoBERTa's (`split` at spaces), and BGE-M3's newer one."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(parsed.charsmap).decode()}
    merge = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    steps = [{"type": "WhitespaceSplit"}, metaspace]
    pieces = [[piece.text, piece.score] for piece in parsed.pieces]
    return {
        "version": "1.0",
        "added_tokens": [added(number, parsed.pieces[number].text, special=True) for number in range(3)],
        "normalizer": precompiled if split else {"type": "Sequence", "normalizers": [precompiled, merge]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if split else metaspace,
        "post_processor": template("<s>", "</s>", ("</s>", "</s>")),
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }


@pytest.mark.parametrize("split", [True, False])
def test_ids_of_a_tokenizer_json(split: bool, parsed: SentencePieceModel, tmp_path: Path) -> None:
    file = tokenizer_file(parsed, split=split)
    file["post_processor"]["special_tokens"]["<s>"]["ids"] = [1]
    file["post_processor"]["special_tokens"]["</s>"]["ids"] = [2]
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    llama = Vocabulary(tmp_path, automatic(write(tmp_path, file, tokenizer_config=settings), SIZE))
    reference = Tokenizer.from_str(json.dumps(file))
    different = {
        label for label, text in PLAIN.items() if llama.ids(text, add_special=True) != reference.encode(text).ids
    }
    # a space at the end is a token of its own in BGE-M3's newer file, where llama.cpp has nothing
    assert different == (set() if split else {"blank", "spaces", "newlines"})


def change(path: Path, **fields: Any) -> None:
    """Put fields into tokenizer.json; `model__…` into its model."""
    file = path / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    for name, value in fields.items():
        inner, _, key = name.rpartition("__")
        (values[inner] if inner else values)[key] = value
    file.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model__byte_fallback": True}, "byte_fallback: expected 'false', found True"),
        ({"model__vocab": [["a"]]}, "model.vocab[0]: expected a text and a finite score"),
        ({"model__vocab": [["a", "b"]]}, "model.vocab[0]"),
        ({"model__vocab": {"a": 0}}, "model.vocab: expected a list"),
        ({"model__unk_id": None}, "model.unk_id: expected a whole number"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: expected Metaspace"),
        ({"normalizer": {"type": "NFD"}}, "normalizer: expected Precompiled"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "precompiled_charsmap: expected base64"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAB"}}, "precompiled_charsmap: expected two"),
    ],
)
def test_impossible(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    case = CASES["unigram"]
    checkpoint = case.write(tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(CheckpointError) as caught:
        unigram(checkpoint, case.size)
    assert words.replace("'false'", "false") in str(caught.value)


def test_bytes_in_a_model_file(tmp_path: Path) -> None:
    model = train("unigram", byte_fallback=True)
    with pytest.raises(
        CheckpointError, match=r"expected no bytes, found <0x00>\. llama\.cpp's unigram tokenizer does not"
    ):
        unigram(model_folder(tmp_path, "spiece.model", model), SIZE)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no tokenizer\.json, sentencepiece\.bpe\.model, spiece\.model"):
        unigram(Checkpoint(tmp_path, Section(tmp_path / "config.json", {}), {}), SIZE)
