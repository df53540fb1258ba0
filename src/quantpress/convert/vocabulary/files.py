"""The JSON files of a tokenizer, each read once."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.checkpoint import Checkpoint, Section
from quantpress.errors import CheckpointError

__all__ = ["TokenizerFiles", "model_type", "read_files"]


@dataclass(frozen=True)
class TokenizerFiles:
    """tokenizer.json and tokenizer_config.json of a checkpoint; empty sections where there are no such files."""

    checkpoint: Checkpoint
    tokenizer: Section
    settings: Section

    def model(self, kind: str) -> Section:
        """The model of tokenizer.json; raises CheckpointError where there is none, or it has another type."""
        if not self.tokenizer.values:
            hint = "transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…) writes it"
            path, expected = self.tokenizer.path, "a tokenizer.json"
            raise CheckpointError(path, "tokenizer", expected=expected, found="no such file", hint=hint)
        model = self.tokenizer.section("model")
        if (found := model_type(model)) != kind:
            raise model.error("type", kind, found)
        return model


def model_type(model: Section) -> str | None:
    """The type of a model; older files, such as GPT-2's, leave it to be seen from the fields."""
    if model.get("type") is not None:
        return model.text("type")
    signs = {"merges": "BPE", "unk_id": "Unigram", "max_input_chars_per_word": "WordPiece"}
    return next((kind for field, kind in signs.items() if field in model.values), None)


def read_files(checkpoint: Checkpoint) -> TokenizerFiles:
    """The files of a checkpoint; raises CheckpointError for one that is malformed."""
    tokenizer, settings = (
        checkpoint.json(name) or Section(checkpoint.path / name, {})
        for name in ("tokenizer.json", "tokenizer_config.json")
    )
    return TokenizerFiles(checkpoint, tokenizer, settings)
