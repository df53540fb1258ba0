"""Mistral's tekken.json: byte-level BPE without merges, where a token's rank says when it is made.

llama.cpp's tokenizer `gpt2` wants merges: each way to cut a token in two tokens is one, in the order of the ranks. The
special tokens have the first ids, the ranks follow. Mistral's older files are SentencePiece models: tokenizer.model.v3,
mistral_instruct_tokenizer_240323.model.v3 and such.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from pathlib import Path

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary.chat_template import chat_template
from quantpress.convert.vocabulary.expressions import TEKKEN
from quantpress.convert.vocabulary.files import read_files
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.sentencepiece import check_bytes, piece_table
from quantpress.convert.vocabulary.sentencepiece_model import read_sentencepiece_model
from quantpress.convert.vocabulary.token_table import TokenTable, TokenType
from quantpress.errors import CheckpointError
from quantpress.gguf import Metadata, Value, ValueType

__all__ = ["mistral", "mistral_model", "tekken"]

# The special tokens of files that list none (tekken_240718.json), from id 0 on
_UNLISTED = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_SPECIALS = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>", "padding": "<pad>"}


def mistral(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a checkpoint with Mistral's own files: tekken.json, else its SentencePiece model.

    Raises CheckpointError where there is neither, and for what `tekken` raises.
    """
    if (checkpoint.path / "tekken.json").is_file():
        return tekken(checkpoint, size)
    path = mistral_model(checkpoint.path)
    if path is None:
        expected = "tekken.json or tokenizer.model.v*"
        raise CheckpointError(checkpoint.path, "tokenizer", expected=expected, found="neither")
    table = piece_table(read_sentencepiece_model(path), size)
    check_bytes(table)
    return {
        "tokenizer.ggml.model": Value.string("llama"),
        "tokenizer.ggml.pre": Value.string("default"),
        **table.metadata(scored=True),
        **_special_keys(table),
        **chat_template(read_files(checkpoint)),
    }


def mistral_model(folder: Path) -> Path | None:
    """The SentencePiece model of a Mistral folder, the one of the highest version; None where there is none."""
    versions = sorted(path for path in folder.glob("*.model.v*") if path.is_file())
    return versions[-1] if versions else None


def tekken(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a checkpoint with a tekken.json, for a vocabulary of `size` ids.

    Raises CheckpointError where the file is missing, malformed, larger than `size`, or cuts a text in another way.
    """
    file = checkpoint.json("tekken.json")
    if file is None:
        path = checkpoint.path / "tekken.json"
        raise CheckpointError(path, "tokenizer", expected="a tekken.json", found="no such file")
    config = file.section("config")
    if (pattern := config.text("pattern")) != TEKKEN:
        raise CheckpointError(file.path, "config.pattern", expected="the one that llama.cpp knows", found=pattern)
    specials = config.integer("default_num_special_tokens")
    ranks = _ranks(file, config.integer("default_vocab_size", least=specials + 256) - specials)
    table = TokenTable(file.path, size)
    for number, text in enumerate(_special_texts(file, specials)):
        table.set(number, text, TokenType.CONTROL)
    for token, rank in ranks.items():
        table.set(specials + rank, _letters(token), TokenType.NORMAL)
    return {
        "tokenizer.ggml.model": Value.string("gpt2"),
        "tokenizer.ggml.pre": Value.string("tekken"),
        **table.metadata(scored=True),
        "tokenizer.ggml.merges": Value.array(ValueType.STRING, list(_merges(ranks))),
        **_special_keys(table),
        **chat_template(read_files(checkpoint)),
    }


def _special_texts(file: Section, count: int) -> list[str]:
    texts = [f"<SPECIAL_{number}>" for number in range(count)]
    if file.get("special_tokens") is None:
        texts[: len(_UNLISTED)] = _UNLISTED[:count]
    for token in objects(file, "special_tokens"):
        rank = token.integer("rank", least=0)
        if rank >= count:
            raise token.error("rank", f"under default_num_special_tokens, {count}", rank)
        texts[rank] = token.text("token_str")
    return texts


def _ranks(file: Section, count: int) -> dict[bytes, int]:
    """The first `count` tokens, which are ordered by rank, to their ranks; the first 256 are the bytes."""
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(objects(file, "vocab")):
        if rank == count:
            break
        try:
            token = base64.b64decode(entry.text("token_bytes"), validate=True)
        except binascii.Error as error:
            raise entry.error("token_bytes", "base64", entry.get("token_bytes")) from error
        if entry.get("rank") != rank or token in ranks or (rank < 256 and token != bytes((rank,))):
            raise entry.error(
                "rank", f"{rank}, each token once, the 256 bytes first", f"{entry.get('rank')}: {token!r}"
            )
        ranks[token] = rank
    if len(ranks) < count:
        raise file.error("vocab", f"{count:,} tokens, as config says", f"{len(ranks):,}")
    return ranks


def _merges(ranks: Mapping[bytes, int]) -> Iterator[str]:
    """Every way to make a token of two others, by its rank and theirs."""
    for token in list(ranks)[256:]:
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        for left, right in sorted(
            (pair for pair in pairs if pair[0] in ranks and pair[1] in ranks),
            key=lambda pair: (ranks[pair[0]], ranks[pair[1]]),
        ):
            yield f"{_letters(left)} {_letters(right)}"


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte: itself where it can be seen, else one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte if byte in seen else 0x100 + hidden.index(byte)) for byte in range(256)]


_LETTERS = dict(enumerate(_byte_letters()))


def _letters(token: bytes) -> str:
    return token.decode("latin-1").translate(_LETTERS)


def _special_keys(table: TokenTable) -> Metadata:
    """Mistral's tokenizers put BOS before a text; where there is no padding token, EOS pads."""
    numbers = {text: number for number, text in enumerate(table.texts)}
    numbers.setdefault("<pad>", numbers.get("</s>", -1))
    keys: Metadata = {}
    for name, text in _SPECIALS.items():
        if numbers.get(text, -1) < 0:
            raise CheckpointError(table.path, "special tokens", expected=text, found="no such token")
        keys[f"tokenizer.ggml.{name}_token_id"] = Value.u32(numbers[text])
    keys["tokenizer.ggml.add_bos_token"] = Value.bool_(True)
    keys["tokenizer.ggml.add_eos_token"] = Value.bool_(False)
    return keys
