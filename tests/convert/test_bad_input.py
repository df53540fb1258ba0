"""Checkpoints that cannot be converted: one clear error, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.errors import CheckpointError, OutputError, PlanError, QuantpressError
from quantpress.progress import Progress
from tests.checkpoints import TINY, edit_json, gemma3_tensors, tiny, write_json, write_safetensors

Refuses = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "model")


@pytest.fixture
def refuses(folder: Path) -> Refuses:
    """Converting raises one CheckpointError with all the words, and writes nothing."""

    def check(*words: str, type: str = "BF16") -> None:
        out = folder.parent / "out"
        out.mkdir()
        with pytest.raises(CheckpointError) as caught:
            convert(folder, out / "model.gguf", type=type)
        for word in words:
            assert word in str(caught.value)
        assert list(out.iterdir()) == []

    return check


def rewrite(folder: Path, dtype: str = "F32", **changes: np.ndarray | None) -> None:
    """Replace, add or (None) remove tensors; names with __ for dots, without the .weight."""
    tensors = gemma3_tensors(TINY, 4096)
    for name, values in changes.items():
        full = f"{name.replace('__', '.')}.weight"
        if values is None:
            del tensors[full]
        else:
            tensors[full] = values
    write_safetensors(folder / "model.safetensors", tensors, dtype)


# Architecture


@pytest.mark.parametrize("names", [["MambaForCausalLM"], [], None])
def test_unknown_architecture(folder: Path, refuses: Refuses, names: Any) -> None:
    edit_json(folder / "config.json", architectures=names)
    refuses(
        "config.json: architectures",
        "Gemma3ForCausalLM",
        "BF16 GGUF file that llama.cpp's own converter",
    )


def test_quantized_weights(folder: Path, refuses: Refuses) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    refuses("quantization_config", "'gptq'")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_activation": "relu"}, ["hidden_activation", "gelu_pytorch_tanh"]),
        ({"query_pre_attn_scalar": 32}, ["query_pre_attn_scalar", "expected 16"]),
        ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rope_type", "default or linear", "'yarn'"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "a positive number"]),
        ({"rope_parameters": {"rope_theta": 1e6}}, ["rope_parameters", "full_attention"]),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, ["sliding_attention.rope_type"]),
        ({"layer_types": ["full_attention"]}, ["layer_types", "2 of"]),
        ({"layer_types": ["full_attention", "mamba"]}, ["layer_types", "mamba"]),
        ({"hidden_size": "32"}, ["hidden_size", "a whole number"]),
        ({"rms_norm_eps": 0}, ["rms_norm_eps"]),
        ({"num_hidden_layers": 2_000_000_000}, ["num_hidden_layers", "at most 28"]),
    ],
)
def test_configuration(folder: Path, refuses: Refuses, fields: dict[str, Any], words: list[str]) -> None:
    edit_json(folder / "config.json", **fields)
    refuses("config.json", *words)


# Tensors


def test_nan(folder: Path, refuses: Refuses) -> None:
    values = np.ones((64, 32), np.float32)
    values[7, 5] = np.nan
    rewrite(folder, model__layers__1__mlp__up_proj=values)
    refuses("model.safetensors: model.layers.1.mlp.up_proj.weight", "row 7, column 5", "finite", "found nan")


def test_infinity_in_a_norm(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, "BF16", model__norm=np.full(32, np.inf, np.float32))
    refuses("model.norm.weight", "found inf")


@pytest.mark.parametrize(("value", "type_name"), [(-65520.0, "F16"), (3.4e38, "BF16")])
def test_overflow(folder: Path, refuses: Refuses, value: float, type_name: str) -> None:
    rewrite(folder, model__layers__0__mlp__up_proj=np.full((64, 32), value, np.float32))
    refuses("model.layers.0.mlp.up_proj.weight", f"in the range of {type_name}", f"{value:g}", "F32", type=type_name)


def test_largest_half(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, model__layers__0__mlp__up_proj=np.full((64, 32), 65519.0, np.float32))
    assert convert(folder, tmp_path / "model.gguf", type="F16").is_file()


def test_missing_tensor(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, model__layers__1__mlp__up_proj=None)
    refuses("tensors: expected the 28 of the architecture", "none for 1: blk.1.ffn_up.weight", "num_hidden_layers = 2")


def test_layers_that_are_not_there(folder: Path, refuses: Refuses) -> None:
    edit_json(folder / "config.json", num_hidden_layers=12)
    refuses("none for 130: blk.2.attn_norm.weight", "and 120 more", "incomplete or num_hidden_layers = 12")


def test_layers_that_should_not_be_there(folder: Path, refuses: Refuses) -> None:
    edit_json(folder / "config.json", num_hidden_layers=1)
    refuses("tensors: expected none but", "13 more: model.layers.1.", "Perhaps num_hidden_layers = 1 in config.json")


def test_left_over_tensor(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, model__layers__1__mlp__router=np.ones((4, 32), np.float32))
    refuses("tensors: expected none but those", "found 1 more: model.layers.1.mlp.router.weight", "--ignore PATTERN")


def test_ignored_tensors_are_left_out(folder: Path, tmp_path: Path) -> None:
    plain = convert(folder, tmp_path / "plain.gguf").read_bytes()
    rewrite(folder, "BF16", model__layers__1__mlp__router=np.ones((4, 32), np.float32))
    assert convert(folder, tmp_path / "out.gguf", ignore=["*.mlp.router.*"]).read_bytes() == plain


def test_pattern_that_no_tensor_has(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--ignore \*\.router\.\*: expected a pattern that some tensor has"):
        convert(folder, tmp_path / "out.gguf", ignore=["*.router.*"])


def test_tensor_that_is_needed_is_not_ignored(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none for 1: blk\.1\.ffn_up\.weight"):
        convert(folder, tmp_path / "out.gguf", ignore=["*layers.1.mlp.up_proj.weight"])


def test_layer_beyond_the_count(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, model__layers__2__mlp__up_proj=np.ones((64, 32), np.float32))
    refuses("model.layers.2.mlp.up_proj.weight")


def test_two_tensors_for_one_place(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, language_model__model__norm=np.ones(32, np.float32))
    refuses("one tensor for model.norm.weight", "found language_model.model.norm.weight")


@pytest.mark.parametrize("shape", [(32, 64), (64, 31), (2048,), (1, 64, 32)])
def test_wrong_shape(folder: Path, refuses: Refuses, shape: tuple[int, ...]) -> None:
    rewrite(folder, model__layers__1__mlp__up_proj=np.ones(shape, np.float32))
    refuses("model.layers.1.mlp.up_proj.weight: shape", "expected [64, 32]", f"found {list(shape)}")


def test_embedding_smaller_than_the_vocabulary(folder: Path, refuses: Refuses) -> None:
    rewrite(folder, model__embed_tokens=np.ones((4095, 32), np.float32))
    refuses("model.embed_tokens.weight: shape", "expected [4096, 32]", "found [4095, 32]")


# Tokenizer and model card


def test_no_tokenizer(folder: Path, refuses: Refuses) -> None:
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").unlink()
    refuses("tokenizer: expected one of tokenizer.model, tokenizer.json, tekken.json", "found none of them")


@pytest.mark.parametrize("content", [b"", b"nonsense", "half"])
def test_malformed_tokenizer(folder: Path, refuses: Refuses, content: bytes | str) -> None:
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:30000] if isinstance(content, str) else content)
    refuses("tokenizer.model", "a SentencePiece model")


def test_piece_that_is_no_text(folder: Path, refuses: Refuses) -> None:
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace("▁that".encode(), b"\xe2\x96\x81tha\xff", 1))
    refuses("tokenizer.model: piece", "expected UTF-8")


def test_tokenizer_larger_than_the_vocabulary(folder: Path, refuses: Refuses) -> None:
    edit_json(folder / "config.json", vocab_size=4095)
    refuses("tokenizer.model: pieces", "at most vocab_size, 4,095", "found 4,096")


@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, ["added_tokens_decoder.x"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {}}}, ["added_tokens_decoder.5.content"]),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, ["added_tokens_decoder"]),
        ("tokenizer_config.json", {"chat_template": "\ud800"}, ["chat_template"]),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, ["chat_template.template"]),
        ("tokenizer_config.json", {"chat_template": 5}, ["chat_template"]),
        ("tokenizer.json", {"added_tokens": [5]}, ["added_tokens: expected a list of objects"]),
        ("tokenizer.json", {"post_processor": []}, ["post_processor"]),
    ],
)
def test_tokenizer_files(folder: Path, refuses: Refuses, file: str, fields: dict[str, Any], words: list[str]) -> None:
    settings = json.loads((folder / file).read_text(encoding="utf-8")) | fields
    (folder / file).write_text(json.dumps(settings), encoding="ascii")
    refuses(file, *words)


def test_post_processor_begins_with_another_token(folder: Path, refuses: Refuses) -> None:
    """Where no setting decides about BOS instead."""
    edit_json(folder / "tokenizer_config.json", bos_token="<eos>", add_bos_token=None)  # noqa: S106 - not that kind
    refuses("tokenizer.json: post_processor.single", "<eos> at the start", "found '<bos>'")


def test_added_token_without_a_number(folder: Path, refuses: Refuses) -> None:
    (folder / "added_tokens.json").write_text('{"<x>": "4"}', encoding="utf-8")
    refuses("added_tokens.json: <x>", "a whole number")


class Noting(Progress):
    """Keeps what it is told."""

    said = ""

    def note(self, text: str) -> None:
        self.said += text


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (b"license: [", "line 3: "),
        (b"license: mit\ntitle: a: b", "line 3: mapping values are not allowed here"),
        (b"license: {a: 1}", "general.license: expected a text, found {'a': '1'}"),
        (b"tags:\n- a: b", "general.tags: expected a text, found {'a': 'b'}"),
        (b'name: "\\ud800"', "general.name"),
        (b"{{ card }}: 1", "line 2: found unhashable key"),
        (b"[" * 10_000, "recursion"),
        (b"\xff", "UTF-8"),
    ],
)
def test_malformed_model_card(folder: Path, tmp_path: Path, card: bytes, reason: str) -> None:
    """It is left out, and that is said."""
    (folder / "README.md").unlink(missing_ok=True)
    plain = convert(folder, tmp_path / "plain.gguf").read_bytes()
    (folder / "README.md").write_bytes(b"---\n" + card + b"\n---\n")
    progress = Noting()
    assert convert(folder, tmp_path / "model.gguf", progress=progress).read_bytes() == plain
    assert progress.said.startswith("README.md: the model card cannot be used")
    assert reason in progress.said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 50.5),
        ("top_k", "50"),
        ("top_k", True),
        ("top_k", 1 << 31),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 1e39),
        ("penalty_repeat", [1.0]),
        ("sequence", 5),
    ],
)
def test_generation_config(folder: Path, refuses: Refuses, field: str, value: Any) -> None:
    write_json(folder / "generation_config.json", {field: value})
    refuses(f"generation_config.json: {field}: expected", repr(value))


def test_a_broken_card_hides_no_error(folder: Path, refuses: Refuses) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    (folder / "generation_config.json").write_text("{", encoding="utf-8")
    refuses("generation_config.json: file: expected JSON")


def test_name_that_is_no_text(folder: Path, refuses: Refuses) -> None:
    edit_json(folder / "config.json", _name_or_path=5)
    refuses("config.json: _name_or_path: expected a string")


# What is no checkpoint


def test_a_gguf_file(bf16_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found a file\. A GGUF file needs no conversion"):
        convert(bf16_gguf, tmp_path / "model.gguf")


def test_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"safetensors files, found nothing there$"):
        convert(tmp_path / "none", tmp_path / "model.gguf")


# Output


def test_unknown_type(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="expected F32 or F16 or BF16, found Q8_0"):
        convert(folder, tmp_path / "model.gguf", type="Q8_0")


def test_parts_too_small_for_a_tensor(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError):
        convert(folder, tmp_path / "model.gguf", split_bytes=1000)


def test_no_such_folder_for_the_output(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        convert(folder, tmp_path / "none" / "model.gguf")


def test_failure_keeps_the_older_file(folder: Path, tmp_path: Path) -> None:
    out = convert(folder, tmp_path / "model.gguf")
    before = out.read_bytes()
    rewrite(folder, model__norm=np.full(32, np.nan, np.float32))
    with pytest.raises(QuantpressError):
        convert(folder, out)
    assert out.read_bytes() == before
    shutil.rmtree(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
