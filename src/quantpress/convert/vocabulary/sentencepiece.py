"""A SentencePiece model file with BPE: llama.cpp's tokenizer `llama`, which merges by the scores of the pieces.

The pieces come from tokenizer.model; added tokens come from added_tokens.json and tokenizer_config.json and replace
them; ids that neither has are padding. The texts, scores and types are those of llama.cpp's own converter.
"""

from __future__ import annotations

from quantpress.checkpoint import Checkpoint
from quantpress.convert.vocabulary.added_tokens import added_to_pieces
from quantpress.convert.vocabulary.files import TokenizerFiles, read_files
from quantpress.convert.vocabulary.sentencepiece_model import (
    BPE,
    UNIGRAM,
    SentencePieceModel,
    read_sentencepiece_model,
)
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.convert.vocabulary.token_table import TokenTable, TokenType
from quantpress.convert.vocabulary.unigram import unigram_model
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value

__all__ = ["check_bytes", "piece_table", "sentencepiece"]

_SPACE = "\u2581"


def sentencepiece(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a checkpoint with a tokenizer.model, for a vocabulary of `size` ids.

    A unigram model gives the keys of `unigram`. Raises CheckpointError where tokenizer.model is missing, malformed,
    of another kind, or larger than `size`, or another file of the tokenizer is malformed.
    """
    files = read_files(checkpoint)
    model = read_sentencepiece_model(checkpoint.path / "tokenizer.model")
    if model.model_type == UNIGRAM:
        return unigram_model(files, model, size)
    listed = bool(files.settings.section("added_tokens_decoder").values)
    table = piece_table(model, size, user_defined=not listed)
    check_bytes(table)
    if added := checkpoint.json("added_tokens.json"):
        for text in added.values:
            table.add(added.integer(text, least=0), text, TokenType.USER_DEFINED)
    for number, token in added_to_pieces(files, len(model.pieces)).items():
        table.add(number, token.text, token.type)
    return {
        "tokenizer.ggml.model": Value.string("llama"),
        "tokenizer.ggml.pre": Value.string("default"),
        **table.metadata(scored=True),
        **_space_prefix(files, model),
        **special_tokens(files, size),
    }


def piece_table(model: SentencePieceModel, size: int, *, user_defined: bool = True) -> TokenTable:
    """The pieces by id; raises CheckpointError for a model that is no BPE, or has more pieces than `size`.

    Without `user_defined`, user-defined pieces are normal ones: where tokenizer_config.json lists the added tokens, it
    has the last word on which are cut out of a text.
    """
    if model.model_type != BPE:
        found = {3: "word", 4: "character"}.get(model.model_type, model.model_type)
        raise CheckpointError(model.path, "model_type", expected="BPE or unigram", found=found)
    if len(model.pieces) > size:
        found = f"{len(model.pieces):,}"
        raise CheckpointError(model.path, "pieces", expected=f"at most vocab_size, {size:,}", found=found)
    table = TokenTable(model.path, size)
    for number, piece in enumerate(model.pieces):
        if piece.type is not TokenType.USER_DEFINED:
            table.set(number, piece.text, piece.type, piece.score)
        elif user_defined:  # llama.cpp looks for these in the text as it was, before spaces are marked
            table.set(number, piece.text.replace(_SPACE, " "), piece.type, piece.score)
        else:
            table.set(number, piece.text, TokenType.NORMAL, piece.score)
    return table


def check_bytes(table: TokenTable) -> None:
    """Raise CheckpointError unless each byte has a token: llama.cpp falls back to bytes, and fails without them."""
    bytes_ = {text for text, kind in zip(table.texts, table.types, strict=True) if kind is TokenType.BYTE}
    if missing := [name for byte in range(256) if (name := f"<0x{byte:02X}>") not in bytes_]:
        found = f"no {missing[0]}" + (f", nor {len(missing) - 1} others" if len(missing) > 1 else "")
        hint = "llama.cpp cannot write a character that no token holds without them"
        raise CheckpointError(table.path, "bytes", expected="a token for each byte", found=found, hint=hint)


def _space_prefix(files: TokenizerFiles, model: SentencePieceModel) -> Metadata:
    """Whether a space goes before a text; llama.cpp takes it for granted that it does."""
    prefix = files.settings.get("add_prefix_space")
    if not isinstance(prefix, bool):
        if model.add_dummy_prefix:
            return {}
        prefix = False
    return {"tokenizer.ggml.add_space_prefix": Value.bool_(prefix)}
