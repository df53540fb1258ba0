"""Byte-level BPE from tokenizer.json (GPT-2, Llama 3, Qwen, DeepSeek and most others): llama.cpp's tokenizer `gpt2`."""

from __future__ import annotations

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary.added_tokens import added_tokens
from quantpress.convert.vocabulary.files import read_files
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.merges import merge_texts, never_produced, read_merges
from quantpress.convert.vocabulary.pre_tokenizers import recognise
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.convert.vocabulary.token_table import TokenTable, TokenType, base_vocabulary
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["byte_level_bpe", "is_byte_level"]


def byte_level_bpe(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a byte-level BPE vocabulary of `size` ids.

    Raises CheckpointError where tokenizer.json is missing, malformed, larger than `size` or of another kind, where
    its pre-tokenizer is none that llama.cpp knows, and where llama.cpp would merge otherwise.
    """
    files = read_files(checkpoint)
    tokenizer, model = files.tokenizer, files.model("BPE")
    _check(tokenizer, model)
    cleans = files.settings.get("clean_up_tokenization_spaces")
    pre = recognise(tokenizer, clean_spaces=cleans if isinstance(cleans, bool) else None)
    base = base_vocabulary(model)
    added = added_tokens(files, base)
    merges = read_merges(model, base.values())
    if pre.ignore_merges != bool(model.get("ignore_merges")):
        _check_merges(model, [text for number, text in base.items() if number not in added], merges, pre.name)
    table = TokenTable(tokenizer.path, size)
    for number, text in base.items():
        table.set(number, text, TokenType.NORMAL)
    for number, token in added.items():
        table.add(number, token.text, token.type)
    special = special_tokens(files, size)
    if pre.adds_bos:  # the file must say what Hugging Face's tokenizer does without being told
        special.setdefault("tokenizer.ggml.add_bos_token", Value.bool_(False))
    return {
        "tokenizer.ggml.model": Value.string("gpt2"),
        "tokenizer.ggml.pre": Value.string(pre.name),
        **table.metadata(),
        "tokenizer.ggml.merges": Value.array(ValueType.STRING, merge_texts(merges)),
        **special,
    }


def _check(tokenizer: Section, model: Section) -> None:
    """What llama.cpp's byte-level BPE takes for granted."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise model.error(key, "none: llama.cpp's BPE knows no such thing", model.get(key))
    if not is_byte_level(tokenizer):
        expected = "one with a ByteLevel step"
        raise tokenizer.error("pre_tokenizer", expected, tokenizer.section("pre_tokenizer").get("type"))


def is_byte_level(tokenizer: Section) -> bool:
    """Whether the pre-tokenizer writes a text in the letters of bytes."""
    section = tokenizer.section("pre_tokenizer")
    steps = [section, *objects(section, "pretokenizers")]
    return any(step.get("type") == "ByteLevel" for step in steps)


def _check_merges(model: Section, texts: list[str], merges: list[tuple[str, str]], name: str) -> None:
    """Where the file and llama.cpp differ in `ignore_merges`, raise unless merging gives every token anyway."""
    if never := never_produced(texts, merges):
        ignored = bool(model.get("ignore_merges"))
        expected = f"{str(not ignored).lower()}, as llama.cpp has it for {name}, or merges that give every token"
        found = f"{str(ignored).lower()}, and {len(never)} that no merge gives, such as {never[0]!r}"
        raise CheckpointError(model.path, "model.ignore_merges", expected=expected, found=found)
