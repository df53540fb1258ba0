"""Unigram vocabularies (T5, XLM-RoBERTa, BGE-M3): llama.cpp's tokenizer `t5`, the likeliest way to cut a text.

tokenizer.json has the ids that the model was trained with. A sentencepiece.bpe.model has not: XLM-RoBERTa's ids are
those of fairseq, which put <s>, <pad>, </s>, <unk> before the pieces and <mask> after them. In any other model file
a piece's place is its id.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator

import numpy as np

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary.added_tokens import added_to_pieces, added_tokens
from quantpress.convert.vocabulary.files import TokenizerFiles, read_files
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.sentencepiece_model import (
    UNIGRAM,
    SentencePieceModel,
    read_sentencepiece_model,
)
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.convert.vocabulary.token_table import TokenTable, TokenType
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["UNIGRAM_FILES", "adds_prefix", "unigram", "unigram_model"]

UNIGRAM_FILES = ("sentencepiece.bpe.model", "spiece.model")
"""Names of the model files that are of this kind."""

_FAIRSEQ = (
    ("<s>", TokenType.CONTROL),
    ("<pad>", TokenType.CONTROL),
    ("</s>", TokenType.CONTROL),
    ("<unk>", TokenType.UNKNOWN),
)
_SP_SPECIALS = 3  # <unk>, <s>, </s> in the model file


def unigram(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a unigram vocabulary of `size` ids: from tokenizer.json, else from a model file.

    Raises CheckpointError where there is neither, and for what llama.cpp's unigram tokenizer cannot do.
    """
    files = read_files(checkpoint)
    if files.tokenizer.values:
        return _from_json(files, size)
    for name in (*UNIGRAM_FILES, "tokenizer.model"):
        if (checkpoint.path / name).is_file():
            return unigram_model(files, read_sentencepiece_model(checkpoint.path / name), size)
    found = f"no tokenizer.json, {', '.join(UNIGRAM_FILES)}"
    raise CheckpointError(checkpoint.path, "tokenizer", expected="a unigram vocabulary", found=found)


def unigram_model(files: TokenizerFiles, model: SentencePieceModel, size: int) -> Metadata:
    """The keys of `unigram` from a model file; raises CheckpointError for one that is malformed or too large."""
    if model.model_type != UNIGRAM:
        raise CheckpointError(model.path, "model_type", expected=f"{UNIGRAM}, unigram", found=model.model_type)
    table = TokenTable(model.path, size)
    pieces = [(piece.text, piece.type, piece.score) for piece in model.pieces]
    if fairseq := model.path.name == "sentencepiece.bpe.model":
        pieces = [(text, kind, 0.0) for text, kind in _FAIRSEQ] + pieces[_SP_SPECIALS:]
    for number, (text, kind, score) in enumerate(pieces):
        if kind is TokenType.BYTE:
            raise _no_bytes(CheckpointError(model.path, f"piece {number}", expected="no bytes", found=text))
        table.set(number, text, kind, score)
    if fairseq and len(pieces) < size:
        table.set(len(pieces), "<mask>", TokenType.CONTROL)
    if TokenType.UNKNOWN not in table.types:
        raise CheckpointError(model.path, "pieces", expected="one of type unknown", found="none")
    unknown = table.types.index(TokenType.UNKNOWN)
    for number, token in added_to_pieces(files, len(pieces)).items():
        if number != unknown:
            table.add(number, token.text, token.type)
    flags = (model.add_dummy_prefix, model.remove_extra_whitespaces, model.charsmap)
    return _keys(files, table, *flags, unknown)


def _from_json(files: TokenizerFiles, size: int) -> Metadata:
    tokenizer, model = files.tokenizer, files.model("Unigram")
    if model.get("byte_fallback"):
        raise _no_bytes(model.error("byte_fallback", "false", True))
    pieces = list(_pieces(model))
    unknown = model.integer("unk_id", least=0)
    table = TokenTable(tokenizer.path, size)
    for number, (text, score) in enumerate(pieces):
        table.set(number, text, TokenType.UNKNOWN if number == unknown else TokenType.NORMAL, score)
    for number, token in added_tokens(files, {number: text for number, (text, _) in enumerate(pieces)}).items():
        if number >= len(pieces):
            table.add(number, token.text, token.type)
        elif number < size and number != unknown:
            table.set(number, token.text, token.type, pieces[number][1])
    prefix, split = _pre_tokenizer(tokenizer)
    charsmap, merged = _normalizer(tokenizer)
    return _keys(files, table, prefix, split or merged, charsmap, unknown)


def _pieces(model: Section) -> Iterator[tuple[str, float]]:
    for place, entry in enumerate(model.items("vocab")):
        match entry:
            case [str(text), int(score) | float(score)] if math.isfinite(score):
                yield text, float(score)
            case _:
                raise model.error(f"vocab[{place}]", "a text and a finite score", entry)


def _pre_tokenizer(tokenizer: Section) -> tuple[bool, bool]:
    """Whether a space goes before a text, and whether runs of spaces are one."""
    section = tokenizer.section("pre_tokenizer")
    steps = list(objects(section, "pretokenizers")) if section.get("type") == "Sequence" else [section]
    kinds = [step.get("type") for step in steps]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        expected = "Metaspace, perhaps after WhitespaceSplit, which is all that llama.cpp's unigram tokenizer does"
        raise tokenizer.error("pre_tokenizer", expected, kinds)
    return adds_prefix(steps[-1]), "WhitespaceSplit" in kinds


def adds_prefix(metaspace: Section) -> bool:
    """Whether a Metaspace step puts a space before a text."""
    scheme = metaspace.get("prepend_scheme")
    return scheme != "never" if scheme is not None else metaspace.get("add_prefix_space", True) is True


def _normalizer(tokenizer: Section) -> tuple[bytes, bool]:
    """The table of SentencePiece's normalizer, and whether runs of spaces become one."""
    section = tokenizer.section("normalizer")
    charsmap, merged = b"", False
    steps = list(objects(section, "normalizers")) if section.get("type") == "Sequence" else [section]
    for step in steps if section.values else []:
        kind = step.get("type")
        if kind == "Precompiled":
            try:
                charsmap = base64.b64decode(step.text("precompiled_charsmap"), validate=True)
            except binascii.Error as error:
                raise step.error("precompiled_charsmap", "base64", error) from error
        elif kind == "Replace" and step.section("pattern").values == {"Regex": " {2,}"}:
            merged = True
        else:
            expected = "Precompiled and Replace of runs of spaces, which llama.cpp's unigram tokenizer can do"
            raise tokenizer.error("normalizer", expected, kind)
    return charsmap, merged


def _keys(
    files: TokenizerFiles, table: TokenTable, prefix: bool, merges_spaces: bool, charsmap: bytes, unknown: int
) -> Metadata:
    keys: Metadata = {
        "tokenizer.ggml.model": Value.string("t5"),
        "tokenizer.ggml.pre": Value.string("default"),
        **table.metadata(scored=True),
        "tokenizer.ggml.add_space_prefix": Value.bool_(prefix),
        "tokenizer.ggml.remove_extra_whitespaces": Value.bool_(merges_spaces),
        "tokenizer.ggml.unknown_token_id": Value.u32(unknown),
        **special_tokens(files, len(table)),
    }
    if charsmap:
        _check_charsmap(table, charsmap)
        keys["tokenizer.ggml.precompiled_charsmap"] = Value.array(ValueType.UINT8, np.frombuffer(charsmap, np.uint8))
    return keys


def _check_charsmap(table: TokenTable, charsmap: bytes) -> None:
    """The first four bytes say how long the first of its two parts is."""
    length = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or length + 4 >= len(charsmap):
        found = f"{len(charsmap)} bytes, of which the first part has {length:,}"
        raise CheckpointError(table.path, "precompiled_charsmap", expected="two parts", found=found)


def _no_bytes(error: CheckpointError) -> CheckpointError:
    """llama.cpp gives the unknown token where such a vocabulary gives bytes."""
    hint = "llama.cpp's unigram tokenizer does not fall back to bytes: it has no way to run this vocabulary as it is"
    return CheckpointError(error.path or "", error.field, expected=error.expected, found=error.found, hint=hint)
