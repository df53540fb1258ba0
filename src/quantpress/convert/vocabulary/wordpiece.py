"""WordPiece (BERT and its kin): llama.cpp's tokenizer `bert`, the longest token from the left, word by word.

A tokenizer's files mark the pieces that go on a word (`##ing`); llama.cpp marks those that begin one, with the sign for
a space (`▁play`), so that a piece that goes on has none.
"""

from __future__ import annotations

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.vocabulary.added_tokens import added_tokens
from quantpress.convert.vocabulary.files import read_files
from quantpress.convert.vocabulary.special_tokens import special_tokens
from quantpress.convert.vocabulary.token_table import TokenTable, TokenType, base_vocabulary
from quantpress.gguf import Metadata, Value

__all__ = ["wordpiece"]

_SPACE = "\u2581"
_CONTINUED = "##"
# What the loader needs, and the ids that it would take for them: those of bert-base
_REQUIRED = {"bos": "cls", "seperator": "sep", "unknown": "unk"}


def wordpiece(checkpoint: Checkpoint, size: int) -> Metadata:
    """All `tokenizer.*` keys of a WordPiece vocabulary of `size` ids.

    Raises CheckpointError where tokenizer.json is missing, malformed, larger than `size` or of another kind, where it
    cuts or cleans a text in another way than llama.cpp, or names no token for [CLS], [SEP] or [UNK].
    """
    files = read_files(checkpoint)
    tokenizer, model = files.tokenizer, files.model("WordPiece")
    _check(tokenizer, model)
    base = base_vocabulary(model)
    table = TokenTable(tokenizer.path, size)
    for number, text in base.items():
        table.set(number, text, TokenType.NORMAL)
    for number, token in added_tokens(files, base).items():
        table.add(number, token.text, token.type)
    typed = zip(table.texts, table.types, strict=True)
    table.texts = [text if kind is TokenType.CONTROL else _marked(text) for text, kind in typed]
    keys = special_tokens(files, size)
    numbers = {text: number for number, text in base.items()}
    unknown = numbers.get(model.text("unk_token", "[UNK]"))
    if unknown is not None:
        keys.setdefault("tokenizer.ggml.unknown_token_id", Value.u32(unknown))
    for name, kind in _REQUIRED.items():
        if f"tokenizer.ggml.{name}_token_id" not in keys:
            raise files.settings.error(
                f"{kind}_token", "a token that tokenizer.json lists", files.settings.get(f"{kind}_token")
            )
    return {
        "tokenizer.ggml.model": Value.string("bert"),
        "tokenizer.ggml.pre": Value.string("default"),
        **table.metadata(),
        **keys,
    }


def _marked(text: str) -> str:
    return text.removeprefix(_CONTINUED) if text.startswith(_CONTINUED) else _SPACE + text


def _check(tokenizer: Section, model: Section) -> None:
    """What llama.cpp's WordPiece does, and nothing else."""
    if (prefix := model.get("continuing_subword_prefix", _CONTINUED)) != _CONTINUED:
        raise model.error("continuing_subword_prefix", repr(_CONTINUED), prefix)
    normalizer, pre_tokenizer = tokenizer.section("normalizer"), tokenizer.section("pre_tokenizer")
    if normalizer.get("type") != "BertNormalizer":
        raise tokenizer.error("normalizer", "BertNormalizer, as llama.cpp does it", normalizer.get("type"))
    for key in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(key, True) is not True:
            raise normalizer.error(key, "true, as llama.cpp does it", normalizer.get(key))
    if pre_tokenizer.get("type") != "BertPreTokenizer":
        raise tokenizer.error("pre_tokenizer", "BertPreTokenizer, as llama.cpp does it", pre_tokenizer.get("type"))
