"""Small checkpoints of each kind of vocabulary, written by hand: what llama.cpp's own converter was asked about."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary import (
    byte_level_bpe,
    gemma4,
    mistral,
    sentencepiece_json,
    unigram,
    wordpiece,
)
from quantpress.gguf import Metadata
from tests.convert.vocabulary.tokenizer_files import LLAMA3, QWEN2, TEKKEN, added, byte_level, sequence, split

_LETTERS = sorted(
    [chr(byte) for byte in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    + [chr(0x100 + place) for place in range(68)]
)
_MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("1", "2"), ("Ċ", "Ċ")]


@dataclass(frozen=True)
class Case:
    """A checkpoint: its files, the class of its model, the function for its kind, and the rows of its embedding.

    `pre` is what llama.cpp's converter is told that the pre-tokenizer is: it asks a hash, which knows no tiny ones.
    """

    files: Mapping[str, Any]
    architecture: str
    kind: Callable[[Checkpoint, int], Metadata]
    size: int
    pre: str = "default"

    def write(self, folder: Path) -> Checkpoint:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"architectures": [self.architecture], "model_type": "llama", "vocab_size": self.size}
        config |= self.files.get("config.json", {})
        for name, content in {**self.files, "config.json": config}.items():
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        return Checkpoint(folder, Section(folder / "config.json", config), {})


def bpe(pre_tokenizer: Mapping[str, Any], *tokens: str, **model: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json; `tokens` are added ones, special where they are in brackets."""
    texts = [*_LETTERS, *(left + right for left, right in _MERGES)]
    return {
        "version": "1.0",
        "added_tokens": [
            added(len(texts) + place, text, special=text.startswith("<") and text.endswith(">"))
            for place, text in enumerate(tokens)
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": [" ".join(pair) for pair in _MERGES],
            **model,
        },
    }


def template(first: str | None, last: str | None, between: tuple[str, ...] = ()) -> dict[str, Any]:
    """A TemplateProcessing for one text and for two."""

    def special(text: str | None) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": 0}}] if text else []

    texts = [[{"Sequence": {"id": name, "type_id": 0}}] for name in "AB"]
    middle = [part for text in between for part in special(text)]
    tokens = {text: {"id": text, "ids": [0], "tokens": [text]} for text in (first, last, *between) if text}
    return {
        "type": "TemplateProcessing",
        "single": [*special(first), *texts[0], *special(last)],
        "pair": [*special(first), *texts[0], *middle, *texts[1], *special(last)],
        "special_tokens": tokens,
    }


def _llama3() -> Case:
    tokenizer = bpe(sequence(split(LLAMA3), byte_level()), "<|begin|>", "<|end|>", "<|eot|>", ignore_merges=True)
    steps = [byte_level(use_regex=True), template("<|begin|>", None, ("<|begin|>",))]
    tokenizer["post_processor"] = {"type": "Sequence", "processors": steps}
    settings = {
        "bos_token": "<|begin|>",
        "eos_token": {"__type": "AddedToken", "content": "<|eot|>"},
        "chat_template": "{{ messages }}",
    }
    return Case(
        {"tokenizer.json": tokenizer, "tokenizer_config.json": settings},
        "LlamaForCausalLM", byte_level_bpe, 270, "llama-bpe",
    )  # fmt: skip


def _qwen2() -> Case:
    tokenizer = bpe(sequence(split(QWEN2), byte_level()), "<|endoftext|>", "<|im_end|>", "word▁s", "<|looks|>")
    tokenizer["normalizer"] = {"type": "NFC"}
    tokenizer["post_processor"] = byte_level()
    tokenizer["added_tokens"][3]["special"] = False
    settings = {
        "add_bos_token": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": [
            {"name": "default", "template": "{{ messages }}"},
            {"name": "tool-use", "template": "{{ tools }}"},
        ],
    }
    return Case(
        {
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": settings,
            "config.json": {"bos_token_id": 263, "eos_token_id": [264, 263]},
        },
        "Qwen2ForCausalLM", byte_level_bpe, 272, "qwen2",
    )  # fmt: skip


def _ends_with_another() -> Case:
    """As Qwen 3's embedding models: the text ends with the end of text, the EOS of a chat is the end of a turn."""
    tokenizer = bpe(sequence(split(QWEN2), byte_level()), "<|endoftext|>", "<|im_end|>")
    tokenizer["normalizer"] = {"type": "NFC"}
    tokenizer["post_processor"] = {"type": "Sequence", "processors": [byte_level(), template(None, "<|endoftext|>")]}
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "clean_up_tokenization_spaces": False}
    return Case(
        {"tokenizer.json": tokenizer, "tokenizer_config.json": settings},
        "Qwen2ForCausalLM", byte_level_bpe, 270, "qwen2",
    )  # fmt: skip


def _wordpiece() -> Case:
    texts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "the", ".", "<extra>"]
    tokenizer = {
        "added_tokens": [added(number, texts[number], special=number < 5) for number in (0, 1, 2, 3, 4, 10)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template("[CLS]", "[SEP]", ("[SEP]",)),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {text: number for number, text in enumerate(texts)},
        },
    }
    settings = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("cls", "sep", "unk", "pad", "mask")}
    return Case(
        {
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": settings | {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
            "config.json": {"model_type": "bert"},
        },
        "BertModel", wordpiece, 12,
    )  # fmt: skip


def _unigram() -> Case:
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁the", -2.5], ["e", -3.5]]
    charsmap = (4).to_bytes(4, "little") + bytes(4) + b"\0"
    tokenizer = {
        "added_tokens": [added(number, pieces[number][0], special=True) for number in range(4)]
        + [added(7, "<mask>", special=True)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": template("<s>", "</s>", ("</s>", "</s>")),
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [*pieces, ["<mask>", 0.0]], "byte_fallback": False},
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "cls_token": "<s>"}
    settings |= {"pad_token": "<pad>", "mask_token": "<mask>", "clean_up_tokenization_spaces": True}
    return Case(
        {
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": settings | {"tokenizer_class": "XLMRobertaTokenizer"},
            "config.json": {"model_type": "xlm-roberta"},
        },
        "XLMRobertaModel", unigram, 10,
    )  # fmt: skip


def sentencepiece_file() -> dict[str, Any]:
    """A tokenizer.json of SentencePiece-like BPE, as Gemma 4's: spaces are marked, nothing goes before a text."""
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("\n", "\n")]
    texts = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|channel>", "<turn|>"]
    texts += [f"<0x{byte:02X}>" for byte in range(256)]
    texts += ["h", "e", "l", "o", "▁", "\n", *(left + right for left, right in merges)]
    return {
        "added_tokens": [added(number, texts[number], special=True) for number in range(7)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": template("<bos>", None, ("<bos>",)),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": [list(pair) for pair in merges],
        },
    }


_GEMMA_SETTINGS = {
    **{f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "unk", "pad", "mask")},
    "extra_special_tokens": {"channel_token": "<|channel>", "turn_token": "<turn|>"},
}
_GEMMA_SIZE = 275


def _gemma4() -> Case:
    files = {"tokenizer.json": sentencepiece_file(), "tokenizer_config.json": _GEMMA_SETTINGS}
    return Case(files, "Gemma4ForCausalLM", gemma4, _GEMMA_SIZE)


def _sentencepiece_json() -> Case:
    files = {"tokenizer.json": sentencepiece_file(), "tokenizer_config.json": _GEMMA_SETTINGS}
    return Case(files, "LlamaForCausalLM", sentencepiece_json, _GEMMA_SIZE)


def _tekken() -> Case:
    tokens = [bytes((byte,)) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello", b" hello", b"\n\n", b"unused"]
    file = {
        "config": {
            "pattern": TEKKEN,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": 24 + 262,
            "default_num_special_tokens": 24,
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(tokens)
        ],
    }
    return Case({"tekken.json": file, "chat_template.jinja": "{{ messages }}"}, "LlamaForCausalLM", mistral, 286)


CASES = {
    "llama3": _llama3(),
    "qwen2": _qwen2(),
    "ends-with-another": _ends_with_another(),
    "wordpiece": _wordpiece(),
    "unigram": _unigram(),
    "gemma4": _gemma4(),
    "sentencepiece-json": _sentencepiece_json(),
    "tekken": _tekken(),
}
