"""Train the small tokenizers of tests/data/tokenizers on tests/data/prose.txt.

pip install tokenizers sentencepiece
PYTHONPATH=scripts python scripts/make_tokenizers.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from fixtures.case import BYTE_LEVEL, GEMMA4, SENTENCEPIECE, TOKENS, UNIGRAM, WORDPIECE

DATA = Path(__file__).parents[1] / "tests" / "data"
TEXT = DATA / "prose.txt"

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def byte_level(folder: Path) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS[BYTE_LEVEL],
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train([str(TEXT)], trainer)
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": special[2],
        "pad_token": special[0],
        "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
        "added_tokens_decoder": {
            str(number): {"content": text, "special": True} for number, text in enumerate(special)
        },
    }
    write(folder / "tokenizer_config.json", settings)


def sentence_piece(folder: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        input=str(TEXT),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=TOKENS[SENTENCEPIECE],
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
    }
    write(folder / "tokenizer_config.json", settings)


def gemma4(folder: Path) -> None:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>"]
    fixed = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=TOKENS[GEMMA4] - len(fixed), show_progress=False)
    made.train([str(TEXT)], trainer)
    trained = json.loads(made.to_str())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    made.model = models.BPE(
        vocab={text: number for number, text in enumerate([*fixed, *pieces])},
        merges=[tuple(pair) for pair in trained["merges"]],
        unk_token=special[3],
        fuse_unk=True,
        byte_fallback=True,
    )
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(special)
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special[2],
        "eos_token": special[1],
        "pad_token": special[0],
        "unk_token": special[3],
        "extra_special_tokens": dict(
            zip(("sot_token", "eot_token", "stc_token", "etc_token"), special[4:], strict=True)
        ),
        "chat_template": "{% for message in messages %}<|turn>{{ message.content }}<turn|>{% endfor %}",
    }
    write(folder / "tokenizer_config.json", settings)


def word_piece(folder: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = tokenizers.Tokenizer(models.WordPiece(unk_token=special[1]))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=TOKENS[WORDPIECE], special_tokens=special, limit_alphabet=64, show_progress=False
    )
    made.train([str(TEXT)], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))
    names = ("pad", "unk", "cls", "sep", "mask")
    tokens = {f"{name}_token": text for name, text in zip(names, special, strict=True)}
    write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **tokens})


def unigram(folder: Path) -> None:
    """With fairseq's four tokens before the pieces and <mask> after them."""
    with tempfile.TemporaryDirectory() as temporary:
        rules, prefix = Path(temporary) / "rules.tsv", Path(temporary) / "model"
        rules.write_text("FF21\t41\nA0\t20\n", encoding="utf-8")  # a short table: NFKC's has 240 kB
        sentencepiece.SentencePieceTrainer.train(
            input=str(TEXT),
            model_prefix=str(prefix),
            vocab_size=TOKENS[UNIGRAM] - 2,
            model_type="unigram",
            normalization_rule_tsv=str(rules),
            num_threads=1,
            minloglevel=2,
        )
        trained = sentencepiece_model_pb2.ModelProto.FromString(prefix.with_suffix(".model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in trained.pieces][3:]
    first, last = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], [("<mask>", 0.0)]
    made = tokenizers.Tokenizer(models.Unigram([*first, *pieces, *last], unk_id=3, byte_fallback=False))
    made.normalizer = normalizers.Precompiled(trained.normalizer_spec.precompiled_charsmap)
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.add_special_tokens([text for text, _ in [*first, *last]])
    made.save(str(folder / "tokenizer.json"))
    texts = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
    tokens = {f"{name}_token": text for name, text in texts.items()}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "clean_up_tokenization_spaces": True, **tokens}
    write(folder / "tokenizer_config.json", settings)


def main() -> None:
    for name, make in (
        (BYTE_LEVEL, byte_level),
        (SENTENCEPIECE, sentence_piece),
        (GEMMA4, gemma4),
        (WORDPIECE, word_piece),
        (UNIGRAM, unigram),
    ):
        folder = DATA / "tokenizers" / name
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)


if __name__ == "__main__":
    main()
