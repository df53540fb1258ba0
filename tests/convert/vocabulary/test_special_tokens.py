"""Special tokens, what is added to a text, and chat templates; against llama.cpp's converter in test_oracle.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress.convert.vocabulary.files import read_files
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.errors import CheckpointError
from tests.convert.vocabulary.cases import template
from tests.convert.vocabulary.tiny import write
from tests.convert.vocabulary.tokenizer_files import added, byte_level

NAMES = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "<sep>"}
TOKENS = [added(number, text) for number, text in enumerate(("<s>", "</s>", "<sep>", "<cls>", "<end>"))]


def keys(folder: Path, processor: Any = None, *, settings: Any = None, config: Any = None) -> dict[str, Any]:
    """Names without `tokenizer.ggml.` to values."""
    tokenizer = {"added_tokens": TOKENS, "post_processor": processor}
    checkpoint = write(folder, tokenizer, tokenizer_config=settings or {}, config=config or {})
    return {
        key.removeprefix("tokenizer.").removeprefix("ggml."): value.value
        for key, value in special_tokens(read_files(checkpoint), 10).items()
    }


def test_ids(tmp_path: Path) -> None:
    """By text, in tokenizer.json; then by number, in config.json; none beyond the embedding."""
    config = {"bos_token_id": 7, "eos_token_id": [1, 4], "pad_token_id": 12, "text_config": {"unk_token_id": 8}}
    found = keys(tmp_path, config=config, settings={"bos_token": {"content": "<s>"}, "mask_token": "<none>"})
    assert found == {"bos_token_id": 0, "unknown_token_id": 8}


def test_cls_and_sep_stand_in(tmp_path: Path) -> None:
    found = keys(tmp_path, settings={"cls_token": "<cls>", "sep_token": "<sep>"})
    assert found == {"bos_token_id": 3, "eos_token_id": 2, "seperator_token_id": 2}


@pytest.mark.parametrize(
    ("processor", "settings", "expected"),
    [
        (None, {"add_bos_token": True, "add_eos_token": False}, {"bos": True, "eos": False}),
        (byte_level(), {"add_bos_token": True}, {"bos": False, "eos": False}),  # tokenizer.json is what runs
        (template("<s>", None, ("<s>",)), {"add_bos_token": False}, {"bos": True, "sep": False}),
        (template(None, "</s>", ("</s>",)), {}, {"eos": True, "sep": False}),
        (template(None, None, ("<sep>",)), {}, {"sep": True}),
        (template("<s>", "</s>", ("</s>", "</s>")), {}, {"bos": True, "eos": True, "sep": True}),
        (
            {"type": "Sequence", "processors": [byte_level(), template("<s>", None)]},
            {},
            {"bos": True, "eos": False},
        ),
        (
            {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
            {},
            {"bos": True, "eos": True, "sep": True},
        ),
    ],
)
def test_added(processor: Any, settings: dict[str, Any], expected: dict[str, bool], tmp_path: Path) -> None:
    found = keys(tmp_path, processor, settings={**NAMES, **settings})
    assert {key: value for key, value in found.items() if key.startswith("add_")} == {
        f"add_{kind}_token": value for kind, value in expected.items()
    }


def test_template_names_the_tokens(tmp_path: Path) -> None:
    found = keys(tmp_path, template("<s>", "</s>"))
    assert (found["bos_token_id"], found["eos_token_id"]) == (0, 1)


def test_template_that_ends_with_another_token(tmp_path: Path) -> None:
    """The one that a text ends with is EOS, the other the end of a turn."""
    found = keys(tmp_path, template(None, "</s>"), settings={"eos_token": "<end>"})
    assert (found["eos_token_id"], found["eot_token_id"], found["add_eos_token"]) == (1, 4, True)


def test_template_that_begins_with_another_token(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"post_processor\.single: expected </s> at the start.*found '<s>'"):
        keys(tmp_path, template("<s>", None), settings={"bos_token": "</s>"})


def test_template_that_begins_with_cls(tmp_path: Path) -> None:
    """CLS then is what llama.cpp is to put before a text, whatever BOS is."""
    settings = {"cls_token": "<cls>", "bos_token": "<s>", "sep_token": "<sep>"}
    found = keys(tmp_path, template("<cls>", "<sep>", ("<sep>",)), settings=settings)
    assert (found["bos_token_id"], found["eos_token_id"]) == (3, 2)
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, True)


def test_template_with_two_tokens_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"single: expected one token at the end.*found '<end> </s>'"):
        keys(tmp_path, ends_with_two(), settings={"tokenizer_class": "CohereTokenizer", "bos_token": "<s>"})


def ends_with_two() -> dict[str, Any]:
    """Command-R's: BOS, the text, the end of a turn, EOS."""
    processor = template("<s>", "</s>")
    processor["single"].insert(2, {"SpecialToken": {"id": "<end>", "type_id": 0}})
    return processor


# The classes that make the post-processor anew from the flags; llama.cpp's converter does not know of them


@pytest.mark.parametrize(
    ("tokenizer_class", "processor", "settings", "expected"),
    [
        ("LlamaTokenizerFast", byte_level(), {"add_bos_token": True}, {"bos": True, "eos": False}),  # DeepSeek V3
        ("LlamaTokenizerFast", byte_level(), {}, {"bos": False, "eos": False}),
        ("PreTrainedTokenizerFast", byte_level(), {"add_bos_token": True}, {"bos": False, "eos": False}),
        ("LlamaTokenizer", template("<s>", None), {"add_bos_token": False}, {"bos": False}),
        ("GemmaTokenizer", template("<s>", None), {"add_eos_token": True}, {"bos": True, "eos": True}),
        ("PreTrainedTokenizerFast", template("<s>", None), {"add_bos_token": False}, {"bos": True}),  # Llama 3
        ("LlamaTokenizerFast", byte_level(), {"add_bos_token": "yes"}, {"bos": False, "eos": False}),
    ],
)
def test_flags_by_class(
    tokenizer_class: str, processor: Any, settings: dict[str, Any], expected: dict[str, bool], tmp_path: Path
) -> None:
    found = keys(tmp_path, processor, settings={**NAMES, "tokenizer_class": tokenizer_class, **settings})
    assert {key: value for key, value in found.items() if key.startswith("add_")} == {
        f"add_{kind}_token": value for kind, value in expected.items()
    }


def test_command_r(tmp_path: Path) -> None:
    """EOS is the end of a turn, and nothing is added after a text, though the template adds that and another token."""
    settings = {"tokenizer_class": "CohereTokenizer", "bos_token": "<s>", "eos_token": "<end>"}
    settings |= {"add_bos_token": True, "add_eos_token": False}
    assert keys(tmp_path, ends_with_two(), settings=settings) == {
        "bos_token_id": 0,
        "eos_token_id": 4,
        "add_bos_token": True,
        "add_eos_token": False,
    }


def test_templates_that_end_with_many_tokens(tmp_path: Path) -> None:
    steps = [template(None, text) for text in ("</s>", "<sep>", "<cls>")]
    with pytest.raises(CheckpointError, match=r"processors\.single: expected <sep> at the end, found '<cls>'"):
        keys(tmp_path, {"type": "Sequence", "processors": steps}, settings={"eos_token": "<end>"})


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        ({"type": "Lowercase"}, {"lowercase": True}),
        ({"type": "Sequence", "normalizers": [{"type": "StripAccents"}, {"type": "NFC"}]}, {"strip_accents": True}),
        ({"type": "BertNormalizer", "lowercase": False, "strip_accents": None}, {"lowercase": False}),
    ],
)
def test_normalizer(normalizer: Any, expected: dict[str, bool], tmp_path: Path) -> None:
    checkpoint = write(tmp_path, {"normalizer": normalizer})
    found = {key: value.value for key, value in special_tokens(read_files(checkpoint), 10).items()}
    assert found == {f"tokenizer.ggml.normalizer.{name}": value for name, value in expected.items()}


# Chat templates


def test_named_templates(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "a"},
        {"name": "tool-use", "template": "b"},
        {"name": "rag", "template": "c"},
    ]
    assert keys(tmp_path, settings={"chat_template": named}) == {
        "chat_template": "a",
        "chat_template.tool_use": "b",
        "chat_template.rag": "c",
        "chat_templates": ["rag", "tool_use"],
    }


@pytest.mark.parametrize("others", [True, False])
def test_template_files(others: bool, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("default", encoding="utf-8")
    expected = {"chat_template": "default"}
    if others:
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools", encoding="utf-8")
        expected |= {"chat_template.tool_use": "tools", "chat_templates": ["tool_use"]}
    assert keys(tmp_path) == expected
    assert keys(tmp_path, settings={"chat_template": "of an older version"}) == expected


def test_template_in_json(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}), encoding="utf-8")
    assert keys(tmp_path) == {"chat_template": "of the processor"}
    assert keys(tmp_path, settings={"chat_template": "of the tokenizer"}) == {"chat_template": "of the tokenizer"}


@pytest.mark.parametrize("wrong", [5, [5], [{"name": "default"}], [{"template": "x"}], "\ud800"])
def test_malformed_template(wrong: Any, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}), encoding="ascii")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: chat_template"):
        special_tokens(read_files(checkpoint), 10)
