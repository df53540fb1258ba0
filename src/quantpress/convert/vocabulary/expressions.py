"""The pre-tokenizers that llama.cpp knows by a name, each as the expressions that cut a text one after the other.

The expressions are those of the tokenizer.json files of the models that brought them; llama.cpp has them by name in
`tokenizer.ggml.pre`, spelled for its own engine (src/llama-vocab.cpp). One name stands for each behaviour: llama.cpp
treats `olmo`, `mpt` and `gpt-2` alike, and we write `gpt-2`. A newcomer is a new row.

Where a name stands for expressions that llama.cpp only approximates, its row in tests/convert/vocabulary says where
the two part.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COVERING", "GPT2", "PRE_TOKENIZERS", "SPELLINGS", "TEKKEN", "PreTokenizer"]

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ByteLevel splits by itself."""

_LLAMA3 = _CONTRACTIONS + "|" + _WORD + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
) + _SPACES
"""That of Mistral's tekken.json, too."""
_GPT4O_ONE_DIGIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}*{_SMALL}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_CAPITALS}+{_SMALL}*{_CONTRACTIONS}?"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
) + _SPACES
_GPT4O = _GPT4O_ONE_DIGIT.replace(r"\p{N}|", r"\p{N}{1,3}|")

_LATIN_GREEK_CYRILLIC = (  # DeepSeek's list of cased letters
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_CHINESE_KOREAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CHINESE_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3 = (
    '[!"#$%&' + r"'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*"
) + _SPACES
_SPARK = _DEEPSEEK_V3.replace(r"[\p{P}\p{S}]+[\r\n]*", r"[\p{P}\p{S}]+").replace(r"\s*[\r\n]+", r"[\r\n]")
_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
_JAIS2 = (
    _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
    + "".join(rf"|\s{{{run}}}(?!\S)" for run in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
    + r"|\s{1}"
)
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|"
    "[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_EXAONE_MOE = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    + r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

COVERING = frozenset({GPT2, _LLAMA3, _QWEN2, _QWEN35, TEKKEN, _GPT4O})
"""Expressions that match every letter of every text: to remove what they do not match removes nothing."""

SPELLINGS = (
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
    ("'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", _WORD),  # possessive, where giving back could not help to match
    (r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*"),
    (r"\p{N}{1}|", r"\p{N}|"),
)
"""Other ways to write parts of these expressions, and ours."""


@dataclass(frozen=True)
class PreTokenizer:
    """What llama.cpp does for a value of `tokenizer.ggml.pre`.

    Attributes:
        name: the value.
        steps: the expressions, as `pre_tokenizers.recognise` writes them.
        ignore_merges: a whole piece that is a token is taken without merging.
        clean_spaces: spaces before punctuation are removed when a text is written out.
        adds_bos: BOS goes before a text unless the file says otherwise.
        composes: the models that brought the name compose letters and accents first (NFC). llama.cpp does not.
    """

    name: str
    steps: tuple[str, ...]
    ignore_merges: bool = False
    clean_spaces: bool = False
    adds_bos: bool = False
    composes: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (GPT2,), clean_spaces=True),
    PreTokenizer("trillion", (GPT2,)),
    PreTokenizer("starcoder", (r"\p{N}", GPT2), clean_spaces=True),
    PreTokenizer("smollm", (r"\p{N}", GPT2)),
    PreTokenizer("command-r", (r"\p{N}", GPT2), composes=True),
    PreTokenizer("llama-bpe", (_LLAMA3,), ignore_merges=True, clean_spaces=True, adds_bos=True),
    PreTokenizer("dbrx", (_LLAMA3,), clean_spaces=True),
    PreTokenizer("qwen2", (_QWEN2,), composes=True),
    PreTokenizer("stablelm2", (_QWEN2,), clean_spaces=True, composes=True),
    PreTokenizer("qwen35", (_QWEN35,), composes=True),
    PreTokenizer("gpt-4o", (_GPT4O,)),
    PreTokenizer("tekken", (TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer(
        "deepseek-llm",
        (
            r"[\r\n]",
            rf"\s?[{_LATIN_GREEK_CYRILLIC}]+",
            r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CHINESE_KOREAN,
            r"\p{N}",
        ),
    ),
    PreTokenizer("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_KOREAN, r"\p{N}")),
    PreTokenizer("deepseek-v3", (r"\p{N}{1,3}", _CHINESE_JAPANESE, _DEEPSEEK_V3)),
    PreTokenizer("spark2_5", (r"\p{N}{1,3}", _CHINESE_JAPANESE, _SPARK, r"\p{N}")),
    PreTokenizer("falcon", ("Punctuation Contiguous", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), clean_spaces=True),
    PreTokenizer("bloom", (_BLOOM,), clean_spaces=True),
    PreTokenizer("poro-chat", (_BLOOM,)),
    PreTokenizer("viking", (_BLOOM, r"\p{N}")),
    PreTokenizer("bailingmoe", (_QWEN2.replace(r"|\s*[\r\n]+|", r"|\s*[\r\n]|"),)),
    PreTokenizer("seed-coder", (_QWEN2.replace(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    PreTokenizer("ufakzeka", (_QWEN2.removeprefix(_CONTRACTIONS + "|"),)),
    PreTokenizer("laguna", (r"(?:\r?\n)+(?!\r?\n) MergedWithNext", _QWEN2)),
    PreTokenizer("minicpm5", (r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")), True, True),
    PreTokenizer("tiny_aya", (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    PreTokenizer("youtu", (_YOUTU, _GPT4O_ONE_DIGIT), ignore_merges=True),
    PreTokenizer("jais-2", (_JAIS2,), clean_spaces=True),
    PreTokenizer("exaone-moe", (_EXAONE_MOE,), clean_spaces=True),
    PreTokenizer("superbpe", (r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
)
"""Those that llama.cpp cuts like Hugging Face's tokenizers; the first of equals is taken."""
