"""BERT and its kin: the vectors that transformers gives, older forms of checkpoints, and what llama.cpp cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.errors import CheckpointError, EngineError
from quantpress.gguf import read
from tests.convert.edits import edit_config
from tests.convert.embeddings import embeddings
from tests.convert.test_architectures import CASES, DATA, checkpoint

EMBEDDED = [name for name in CASES if (DATA / "checkpoints" / name / "embeddings.npz").is_file()]

TOLERANCE = 2e-3
"""Largest difference of vectors, in standard deviations of them.

BERT and RoBERTa come to half and more of it: llama.cpp takes GELU from a table of F16 and in its form with tanh,
whichever the checkpoint names. Nomic's, which has SiLU, comes to 3e-6.
"""


@pytest.mark.parametrize("name", EMBEDDED)
def test_embeddings(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    with np.load(folder / "embeddings.npz") as stored:
        tokens, positions, expected, mean = (stored[key] for key in ("tokens", "positions", "vectors", "mean"))
    (found,) = embeddings(convert(folder, tmp_path / "out.gguf", type="F32"), [tokens])
    assert np.abs(found.tokens[positions] - expected).max() < TOLERANCE * expected.std()
    pooled = {"bert-masked-lm": found.tokens[0], "roberta": None}.get(name, mean)  # first token; no modules.json
    assert (found.pooled is None) == (pooled is None)
    assert pooled is None or np.abs(found.pooled - pooled).max() < TOLERANCE * expected.std()


def edited(name: str, tmp_path: Path, **fields: Any) -> Path:
    """A checkpoint with other fields in config.json; None takes one out."""
    folder = checkpoint(name, tmp_path)
    edit_config(folder, **fields)
    return folder


def test_published_nomic_config(tmp_path: Path) -> None:
    """Its fields are those of GPT-2."""
    older = {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "max_trained_positions": 64}
    newer = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "max_position_embeddings")
    gone = dict.fromkeys((*newer, "head_dim", "hidden_act", "layer_norm_eps", "rope_parameters"))
    folder = edited("nomic-bert", tmp_path, rotary_emb_base=1000, layer_norm_epsilon=1e-12, **gone, **older)
    expected = convert(checkpoint("nomic-bert", tmp_path / "newer"), tmp_path / "expected.gguf")
    assert convert(folder, tmp_path / "found.gguf").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        (
            "bert",
            {"max_position_embeddings": 32},
            r"position_embeddings.weight: shape: expected \[32, 64\], found \[64, 64\]",
        ),
        ("bert", {"type_vocab_size": 1}, r"token_type_embeddings.weight: shape"),
        ("bert", {"num_hidden_layers": 3}, "none for 16: blk.2.attn_output_norm.weight"),
        ("bert", {"architectures": ["BertForSequenceClassification"]}, "architectures"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings"),
        ("roberta", {"max_position_embeddings": 60}, r"position_embeddings.weight: shape: expected \[58, 64\]"),
        ("nomic-bert", {"moe_every_n_layers": 2}, "moe_every_n_layers"),
        ("nomic-bert", {"qkv_proj_bias": True}, "qkv_proj_bias"),
        ("nomic-bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction"),
        ("nomic-bert", {"activation_function": "gelu"}, "activation_function"),
    ],
)
def test_what_llama_cpp_does_not_compute(name: str, fields: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=field):
        convert(edited(name, tmp_path, **fields), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "{}", "a list of modules"),
        ("modules.json", "[", "JSON"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]', "found 'Dense'"),
        ("modules.json", '[{"type": "a.Pooling", "path": "../elsewhere"}]', "a folder's name"),
        ("modules.json", '[{"type": "a.Pooling", "path": "2_Pooling"}]', "the settings of the pooling"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "found 'max_tokens'"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}', "cls . mean"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean"]}', "a string"),
    ],
)
def test_poolings_that_llama_cpp_does_not_know(file: str, content: str, message: str, tmp_path: Path) -> None:
    folder = checkpoint("bert", tmp_path)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "out.gguf")


def test_last_token(tmp_path: Path) -> None:
    folder = checkpoint("bert", tmp_path)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}', encoding="utf-8")
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        assert model.metadata["bert.pooling_type"].value == 3


def test_imatrix_of_more_tokens_than_a_micro_batch(tmp_path: Path) -> None:
    """llama.cpp dies where a text that is seen whole does not fit into one."""
    model = convert(checkpoint("bert", tmp_path), tmp_path / "out.gguf")
    chunks = np.random.default_rng(0).integers(5, 256, (16, 64)).astype(np.int32)
    with Engine(model, sequences=16) as engine:
        ((done, sums),) = list(engine.activations(chunks))
    assert done == 16
    assert len(sums) == 12
    assert all(counts.sum() == chunks.size for _, counts in sums.values())


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    """llama.cpp gives zeros for logits, from which a perplexity and a divergence of 0 would come."""
    chunks = np.zeros((1, 32), np.int32)
    with Engine(convert(checkpoint("bert", tmp_path), tmp_path / "out.gguf")) as engine:
        for ask in (engine.logits(chunks), engine.record(chunks, 16, None), engine.sample(32)):
            with pytest.raises(EngineError, match="embeds texts and predicts no tokens"):
                next(iter(ask))
