"""The ids of special tokens, and whether BOS, EOS and a separator are added to a text.

tokenizer_config.json names them; the post-processor of tokenizer.json, which is what runs, has the last word on what
is added, but for a few classes of tokenizers; config.json fills in ids. Read as llama.cpp's own converter reads them,
but for these classes. (`gguf.SpecialVocab` is that converter's code, but the version of it that is published differs
from the one that llama.cpp carries.)
"""

from __future__ import annotations

from typing import Any

from quantpress.checkpoint import Section
from quantpress.convert.vocabulary.chat_template import chat_template
from quantpress.convert.vocabulary.files import TokenizerFiles
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.post_processor import post_process
from quantpress.gguf import Metadata, Value

__all__ = ["special_tokens"]

# Kind in the tokenizer's files → name in GGUF keys. "seperator" is how the format spells it.
_KINDS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
}
_IN_SETTINGS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_REBUILDING = (
    *("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer", "GPTNeoXTokenizer"),
    *("LlamaTokenizerFast", "CodeLlamaTokenizerFast", "GemmaTokenizerFast", "CohereTokenizerFast"),
    "GPTNeoXTokenizerFast",
)
"""Classes of transformers 4 that make the post-processor anew from `add_bos_token` and `add_eos_token`.

Models count on it: DeepSeek's tokenizer.json adds no BOS, Command-R's adds two tokens at the end, and their flags say
otherwise. llama.cpp's converter goes by tokenizer.json, and so does transformers 5, which drops the flags.
"""


def special_tokens(files: TokenizerFiles, size: int) -> Metadata:
    """`tokenizer.ggml.*_token_id`, `add_*_token`, `normalizer.*` and the chat template, for `size` tokens.

    Raises CheckpointError for malformed files and for a post-processor that llama.cpp cannot imitate.
    """
    settings, tokenizer = files.settings, files.tokenizer
    texts = {kind: text for kind in _IN_SETTINGS if (text := _content(settings, kind))}
    if tokenizer.values:
        for kind, substitute in (("bos", "cls"), ("eos", "sep")):
            if substitute in texts:
                texts.setdefault(kind, texts[substitute])
    flags = {
        kind: flag for kind in ("bos", "eos", "sep") if isinstance(flag := settings.get(f"add_{kind}_token"), bool)
    }
    rebuilds = settings.get("tokenizer_class") in _REBUILDING
    added = flags | post_process(tokenizer, texts, flags if rebuilds else {})
    found: Metadata = {}
    for kind, number in _ids(files.checkpoint.config, texts, tokenizer, size).items():
        found[f"tokenizer.ggml.{_KINDS[kind]}_token_id"] = Value.u32(number)
    for kind, is_added in added.items():
        found[f"tokenizer.ggml.add_{kind}_token"] = Value.bool_(is_added)
    return found | _normalizer(tokenizer) | chat_template(files)


def _ids(config: Section, texts: dict[str, str], tokenizer: Section, size: int) -> dict[str, int]:
    """Kind to id: its text looked up in tokenizer.json; else what config.json says."""
    numbers: dict[str, int] = {}
    for token in objects(tokenizer, "added_tokens"):
        numbers.setdefault(token.text("content"), token.integer("id", least=0))
    text_config = config.section("text_config")
    found = {}
    for kind in _KINDS:
        number: Any = numbers.get(texts.get(kind, ""))
        if number is None or number >= size:
            number = config.get(f"{kind}_token_id", text_config.get(f"{kind}_token_id"))
        if type(number) is int and 0 <= number < size:  # a list of ids names no single one
            found[kind] = number
    return found


def _content(settings: Section, kind: str) -> str | None:
    """The text of a special token, which is a string or an object with `content`."""
    entry = settings.get(f"{kind}_token")
    content = entry.get("content") if isinstance(entry, dict) else entry
    return content if isinstance(content, str) else None


def _normalizer(tokenizer: Section) -> Metadata:
    """Whether letters are lowered and accents stripped, of which llama.cpp takes account for BERT."""
    found: Metadata = {}
    pending = [tokenizer.section("normalizer")]
    while pending:
        normalizer = pending.pop(0)
        kind = normalizer.get("type")
        if kind == "Sequence":
            pending = [*objects(normalizer, "normalizers"), *pending]
        flags = {"lowercase": kind == "Lowercase" or None, "strip_accents": kind == "StripAccents" or None}
        for name, flag in flags.items():
            value = normalizer.get(name) if kind == "BertNormalizer" else flag
            if isinstance(value, bool):
                found[f"tokenizer.ggml.normalizer.{name}"] = Value.bool_(value)
    return found
