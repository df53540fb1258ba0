"""The added tokens of a tokenizer: what is cut out of a text before anything else is done to it.

tokenizer.json lists them; tokenizer_config.json repeats them with the flags that transformers goes by, and may add
more. llama.cpp cuts out texts literally, so a marker for a space in one is written as the space that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from quantpress.checkpoint import Section
from quantpress.convert.vocabulary.files import TokenizerFiles
from quantpress.convert.vocabulary.json_lists import objects
from quantpress.convert.vocabulary.token_table import TokenType

__all__ = ["AddedToken", "added_to_pieces", "added_tokens", "looks_special"]

_SPACE = "\u2581"
_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True)
class AddedToken:
    """A token as its file has it."""

    content: str
    special: bool

    @property
    def type(self) -> TokenType:
        """CONTROL is cut out only where special tokens are read, USER_DEFINED from every text."""
        return TokenType.CONTROL if self.special or looks_special(self.content) else TokenType.USER_DEFINED

    @property
    def text(self) -> str:
        """What llama.cpp is to look for in a text."""
        return self.content if self.type is TokenType.CONTROL else self.content.replace(_SPACE, " ")


def looks_special(text: str) -> bool:
    """Whether llama.cpp's converter takes a token for a control token though its entry does not say so."""
    return text in _SPECIAL or any(text.startswith(left) and text.endswith(right) for left, right in _BRACKETS)


def added_tokens(files: TokenizerFiles, base: Mapping[int, str]) -> dict[int, AddedToken]:
    """Id to added token, from tokenizer.json and tokenizer_config.json; `base` is the vocabulary that they add to.

    Raises CheckpointError for a malformed entry, and for an id that has two texts.
    """
    tokens = dict(base)
    found: dict[int, AddedToken] = {}
    for number, entry in chain(_listed(files), _configured(files)):
        content = entry.text("content")
        if content != tokens.setdefault(number, content):
            raise entry.error("content", f"{tokens[number]!r}, which has the id {number} already", content)
        found[number] = AddedToken(content, bool(entry.get("special")))
    return found


def added_to_pieces(files: TokenizerFiles, pieces: int) -> dict[int, AddedToken]:
    """Id to added token beside a SentencePiece model of that many pieces.

    tokenizer_config.json replaces pieces, as it does for llama.cpp's converter; tokenizer.json adds what comes after
    them. Raises CheckpointError for a malformed entry.
    """
    after = ((number, entry) for number, entry in _listed(files) if number >= pieces)
    return {
        number: AddedToken(entry.text("content"), bool(entry.get("special")))
        for number, entry in chain(after, _configured(files))
    }


def _listed(files: TokenizerFiles) -> Iterator[tuple[int, Section]]:
    """The entries of tokenizer.json."""
    for entry in objects(files.tokenizer, "added_tokens"):
        yield entry.integer("id", least=0), entry


def _configured(files: TokenizerFiles) -> Iterator[tuple[int, Section]]:
    """The entries of tokenizer_config.json, where the number of a token is the key."""
    decoder = files.settings.section("added_tokens_decoder")
    for key in decoder.values:
        if not (key.isascii() and key.isdecimal()):
            raise decoder.error(key, "a token's number as key", key)
        yield int(key), decoder.section(key)
