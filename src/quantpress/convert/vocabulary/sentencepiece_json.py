"""SentencePiece-like BPE that only a tokenizer.json describes: spaces are marked, unknown letters become bytes.

llama.cpp has two tokenizers for it. `llama` merges by the scores of pieces, which such a file lacks: a piece gets the
negative rank of the first merge that makes it, which gives the order of the merges. (llama.cpp's own converter writes
one score for all, and its tokens differ.) `gemma4` has the merges themselves.
"""

from __future__ import annotations

import re

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary.added_tokens import added_tokens
from quantpress.convert.vocabulary.files import TokenizerFiles, read_files
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.merges import merge_texts, read_merges
from quantpress.convert.vocabulary.sentencepiece import check_bytes
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.convert.vocabulary.token_table import ADDED_SCORE, TokenTable, TokenType, base_vocabulary
from quantpress.convert.vocabulary.unigram import adds_prefix
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["gemma4", "sentencepiece_json"]

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MARK_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_SPLIT_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

# Gemma 4's tokens that a chat parser reads in the answer: llama.cpp writes out USER_DEFINED tokens, CONTROL ones not
_VISIBLE = frozenset(
    ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
)


def sentencepiece_json(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of such a vocabulary of `size` ids, for llama.cpp's tokenizer `llama`.

    Raises CheckpointError where tokenizer.json is missing, malformed, larger than `size`, or does with spaces what
    llama.cpp does not.
    """
    files = read_files(checkpoint)
    table, merges = _read(files, size)
    ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(merges)))}
    for number, kind in enumerate(table.types):
        if kind is TokenType.NORMAL:
            table.scores[number] = -float(ranks.get(table.texts[number], len(merges)))
    prefix: Metadata = {}
    if not _prefixes(files.tokenizer, table.texts):
        prefix = {"tokenizer.ggml.add_space_prefix": Value.bool_(False)}
    return {
        "tokenizer.ggml.model": Value.string("llama"),
        "tokenizer.ggml.pre": Value.string("default"),
        **table.metadata(scored=True),
        **prefix,
        **special_tokens(files, size),
    }


def gemma4(checkpoint: Checkpoint, size: int) -> Metadata:
    """The same for llama.cpp's tokenizer `gemma4`: with merges, without a space before a text, with BOS."""
    files = read_files(checkpoint)
    table, merges = _read(files, size)
    if _prefixes(files.tokenizer, []):
        raise files.tokenizer.error("normalizer", "no space before a text, as llama.cpp has it for Gemma 4", "one")
    table.scores = [ADDED_SCORE] * size
    for number, text in enumerate(table.texts):
        if text in _VISIBLE:
            table.types[number] = TokenType.USER_DEFINED
    return {
        "tokenizer.ggml.model": Value.string("gemma4"),
        **table.metadata(scored=True),
        "tokenizer.ggml.merges": Value.array(ValueType.STRING, merge_texts(merges)),
        **special_tokens(files, size),
        "tokenizer.ggml.add_space_prefix": Value.bool_(False),
        "tokenizer.ggml.add_bos_token": Value.bool_(True),
    }


def _read(files: TokenizerFiles, size: int) -> tuple[TokenTable, list[tuple[str, str]]]:
    model = files.model("BPE")
    if not model.get("byte_fallback"):
        raise model.error("byte_fallback", "true: llama.cpp writes letters that no token holds as bytes", False)
    base = base_vocabulary(model)
    table = TokenTable(model.path, size)
    for number, text in base.items():
        table.set(number, text, TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL)
    check_bytes(table)
    for number, token in added_tokens(files, base).items():
        if not _BYTE.fullmatch(token.content):
            table.add(number, token.text, token.type)
    return table, read_merges(model, base.values())


def _prefixes(tokenizer: Section, texts: list[str]) -> bool:
    """Whether a space goes before a text; raises CheckpointError for another way with spaces than llama.cpp's.

    `texts` are the tokens: where the pieces between spaces are merged apart, llama.cpp must not merge them either.
    """
    normalizer, pre_tokenizer = tokenizer.section("normalizer"), tokenizer.section("pre_tokenizer")
    is_sequence = normalizer.get("type") == "Sequence"
    steps = [step.values for step in (objects(normalizer, "normalizers") if is_sequence else [normalizer])]
    steps = [step for step in steps if step]
    if steps in ([_MARK_SPACES], [_PREPEND, _MARK_SPACES]):
        if pre_tokenizer.values and pre_tokenizer.values != _SPLIT_AT_SPACES:
            expected = "none, as the normalizer marks the spaces"
            raise tokenizer.error("pre_tokenizer", expected, pre_tokenizer.get("type"))
        return len(steps) == 2
    if steps or pre_tokenizer.get("type") != "Metaspace" or pre_tokenizer.get("replacement", _SPACE) != _SPACE:
        found = [*(step.get("type") for step in steps), pre_tokenizer.get("type")]
        raise tokenizer.error("normalizer", f"spaces marked by {_SPACE}, and nothing else", found)
    if pre_tokenizer.get("split", True) and (across := [text for text in texts if text.strip(_SPACE).count(_SPACE)]):
        raise pre_tokenizer.error("split", f"false, as tokens such as {across[0]!r} go across spaces", True)
    return adds_prefix(pre_tokenizer)
