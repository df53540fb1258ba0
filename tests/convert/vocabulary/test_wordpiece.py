"""WordPiece through llama.cpp: the ids of Hugging Face's tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, trainers

from quantpress.convert.vocabulary import automatic, wordpiece
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.cases import CASES, template
from tests.convert.vocabulary.hard_strings import HARD_STRINGS
from tests.convert.vocabulary.llama import Vocabulary
from tests.convert.vocabulary.tiny import corpus, write

SIZE = 2010
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>"]
SETTINGS = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("cls", "sep", "unk", "pad", "mask")}


def trained(**normalizer: Any) -> dict[str, Any]:
    case = CASES["wordpiece"].files["tokenizer.json"]
    empty = case | {"added_tokens": [], "post_processor": None, "model": case["model"] | {"vocab": {"[UNK]": 0}}}
    empty["normalizer"] = case["normalizer"] | normalizer
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", **empty}))
    trainer = trainers.WordPieceTrainer(vocab_size=2000, show_progress=False, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(corpus(), trainer)
    processor = template("[CLS]", "[SEP]", ("[SEP]",))
    for text, number in (("[CLS]", 2), ("[SEP]", 3)):
        processor["special_tokens"][text]["ids"] = [number]
    return {**json.loads(tokenizer.to_str()), "post_processor": processor}


@pytest.mark.parametrize(
    ("normalizer", "different"),
    [
        ({"lowercase": False}, set()),
        ({"lowercase": True, "strip_accents": False}, {"accents"}),  # İ becomes two letters, to llama.cpp one
        # llama.cpp strips all marks, Hugging Face's tokenizers those without a width
        ({"lowercase": True}, {"Korean", "Thai and Khmer", "Devanagari", "emoji", "mixed"}),
    ],
)
def test_ids(normalizer: dict[str, Any], different: set[str], tmp_path: Path) -> None:
    file = trained(**normalizer)
    llama = Vocabulary(tmp_path, automatic(write(tmp_path, file, tokenizer_config=SETTINGS), SIZE), "bert")
    reference = Tokenizer.from_str(json.dumps(file))
    assert different == {
        label for label, text in HARD_STRINGS.items() if llama.ids(text, add_special=True) != reference.encode(text).ids
    }


def changed(path: Path, section: str | None, **fields: Any) -> Any:
    case = CASES["wordpiece"]
    file = json.loads(json.dumps(case.files["tokenizer.json"]))
    (file[section] if section else file).update(fields)
    return write(path, file, tokenizer_config=case.files["tokenizer_config.json"])


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("model", {"continuing_subword_prefix": "@@"}, "continuing_subword_prefix: expected '##', found '@@'"),
        ("normalizer", {"handle_chinese_chars": False}, "normalizer.handle_chinese_chars: expected true"),
        ("normalizer", {"clean_text": False}, "normalizer.clean_text: expected true"),
        (None, {"normalizer": {"type": "Lowercase"}}, "normalizer: expected BertNormalizer"),
        (None, {"pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer: expected BertPreTokenizer"),
        ("model", {"vocab": {}}, "model.vocab: expected an object with the id of each token"),
        ("model", {"type": "BPE"}, "model.type: expected 'WordPiece'"),
    ],
)
def test_impossible(section: str | None, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        wordpiece(changed(tmp_path, section, **fields), 12)
    assert words.replace("expected 'WordPiece'", "expected WordPiece") in str(caught.value)


def test_tokens_that_llama_cpp_needs(tmp_path: Path) -> None:
    """Without them it takes the ids of bert-base, which are others here."""
    file = CASES["wordpiece"].files["tokenizer.json"] | {"post_processor": None}
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config\.json: cls_token: expected a token that tokenizer\.json"
    ):
        wordpiece(write(tmp_path, file), 12)
