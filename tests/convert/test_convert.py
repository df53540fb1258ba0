"""Properties of a conversion that need no oracle but another conversion."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from quantpress.checkpoint import read as read_checkpoint
from quantpress.convert import convert, sources
from quantpress.engine import Engine
from quantpress.gguf import read
from quantpress.progress import Progress
from tests.checkpoints import (
    TINY,
    edit_json,
    gemma3_tensors,
    multimodal,
    tiny,
    write_json,
    write_safetensors,
    write_shards,
)


def same_bytes(first: Path, second: Path) -> bool:
    return first.read_bytes() == second.read_bytes()


def test_shards_convert_like_one_file(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", dtype="F32")
    whole = convert(folder, tmp_path / "whole.gguf")
    (folder / "model.safetensors").unlink()
    write_shards(folder, gemma3_tensors(TINY, 4096), 3, "F32")
    with read(whole) as first, read(convert(folder, tmp_path / "sharded.gguf")) as second:
        assert list(first.tensors) != list(second.tensors)  # the order of the checkpoint, as llama.cpp's converter
        assert first.metadata == second.metadata
        assert first.tensors.keys() == second.tensors.keys()
        for name in first.tensors:
            np.testing.assert_array_equal(first.data(name), second.data(name))


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_text_half_converts_like_a_text_model(prefix: str, tmp_path: Path) -> None:
    """The two ways of naming that `gemma3` checkpoints have had, and an image half that is left out."""
    folder = tiny(tmp_path / "model")
    text = convert(folder, tmp_path / "text.gguf")
    tensors = gemma3_tensors(TINY, 4096)
    inner = "model." if prefix == "model.language_model." else ""
    renamed = {f"{prefix}{name.removeprefix(inner)}": values for name, values in tensors.items()}
    outer = "model." if inner else ""
    renamed[f"{outer}vision_tower.vision_model.embeddings.patch_embedding.weight"] = np.ones((8, 3, 2, 2), np.float32)
    renamed[f"{outer}multi_modal_projector.mm_input_projection_weight"] = np.ones((8, 32), np.float32)
    write_safetensors(folder / "model.safetensors", renamed, "BF16")
    write_json(
        folder / "config.json",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "text_config": {key: value for key, value in TINY.items() if key != "architectures"},
            "vision_config": {"hidden_size": 8},
        },
    )
    assert same_bytes(convert(folder, tmp_path / "half.gguf"), text)


def test_old_and_new_rope_fields_say_the_same(tmp_path: Path) -> None:
    old = {
        "rope_theta": 5e5,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"type": "linear", "factor": 8.0},
        "sliding_window_pattern": 6,
    }
    new = {
        "rope_parameters": {
            "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 2e4, "rope_type": "default"},
        },
        "layer_types": ["sliding_attention"] * 2,
    }
    first = convert(tiny(tmp_path / "a" / "model", old), tmp_path / "old.gguf")
    assert same_bytes(first, convert(tiny(tmp_path / "b" / "model", new), tmp_path / "new.gguf"))


def test_only_global_layers_have_no_window(tmp_path: Path) -> None:
    with read(convert(tiny(tmp_path / "model", {"sliding_window_pattern": 1}), tmp_path / "out.gguf")) as model:
        assert not any("sliding_window" in key for key in model.metadata)


def test_tiles_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny(tmp_path / "model")
    whole = convert(folder, tmp_path / "whole.gguf")
    monkeypatch.setattr(sources, "_TILE_WEIGHTS", 100)
    assert same_bytes(convert(folder, tmp_path / "tiles.gguf"), whole)


def test_bf16_weights_keep_their_bits(demo: Path, bf16_gguf: Path) -> None:
    tensor = read_checkpoint(demo).tensors["model.layers.2.mlp.gate_proj.weight"]
    raw = tensor.path.read_bytes()[tensor.offset :][: 1024 * 256 * 2]
    with read(bf16_gguf) as model:
        assert model.data("blk.2.ffn_gate.weight").tobytes() == raw


def test_split(demo: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    first = convert(demo, tmp_path / "Demo-1.5-BF16.gguf", split_bytes=6_000_000)
    assert first.parent == tmp_path / "Demo-1.5-BF16"
    assert [path.name for path in tmp_path.iterdir()] == [first.parent.name]
    with read(bf16_gguf) as whole, read(first) as parts:
        assert len(parts.paths) > 1
        assert {path.stat().st_size <= 6_000_000 for path in parts.paths} == {True}
        assert list(parts.tensors) == list(whole.tensors)
        for name in whole.tensors:
            np.testing.assert_array_equal(parts.data(name), whole.data(name))
    tokens = np.arange(2, 66, dtype=np.int32)[None]
    with Engine(bf16_gguf) as one, Engine(first) as split:
        np.testing.assert_array_equal(next(one.logits(tokens)), next(split.logits(tokens)))


def test_no_need_to_split(tmp_path: Path) -> None:
    assert convert(tiny(tmp_path / "model"), tmp_path / "a.gguf", split_bytes=10**9) == tmp_path / "a.gguf"


def test_template_in_a_json_file(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    write_json(folder / "chat_template.json", {"chat_template": template})
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        assert model.get("tokenizer.chat_template") == template


def test_without_tokenizer_json_ids_come_from_the_configuration(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", {"bos_token_id": 2, "eos_token_id": [1, 5]})
    (folder / "tokenizer.json").unlink()
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        assert model.get("tokenizer.ggml.bos_token_id") == 2
        assert model.get("tokenizer.ggml.eos_token_id") is None  # a list names no single one
        assert model.get("tokenizer.ggml.add_bos_token") is True


def test_progress_counts_every_weight(tmp_path: Path) -> None:
    class Counting(Progress):
        total = done = 0

        @contextmanager
        def task(self, label, total, unit=""):  # type: ignore[no-untyped-def]
            self.total = total
            yield lambda amount: setattr(self, "done", self.done + amount)

    progress = Counting()
    convert(tiny(tmp_path / "model"), tmp_path / "out.gguf", progress=progress)
    assert progress.total == progress.done == sum(v.size for v in gemma3_tensors(TINY, 4096).values())


def test_left_out_tensors_are_announced(tmp_path: Path) -> None:
    class Noting(Progress):
        said = ""

        def note(self, text: str) -> None:
            self.said += text

    progress = Noting()
    convert(multimodal(tmp_path), tmp_path / "out.gguf", progress=progress)
    assert "2 tensors are left out" in progress.said


def card_of(folder: Path, card: str, out: Path) -> dict[str, object]:
    """The keys of a checkpoint with this model card."""
    (folder / "README.md").write_text(f"---\n{card}\n---\n# A card\n", encoding="utf-8")
    with read(convert(folder, out)) as model:
        return {key: value.value for key, value in model.metadata.items()}


@pytest.mark.parametrize(
    ("card", "key", "expected"),
    [
        ("language: [en, no]", "languages", ["en", "no"]),
        ("language:\n- no\n-\n- yo\n", "languages", ["no", "yo"]),
        ("language: no", "languages", ["no"]),
        ("tags: [chat, 2024, 1.0, off, 2024-01-01, null, ~]", "tags", ["chat", "2024", "1.0", "off", "2024-01-01"]),
        ("tags:\n\t- a\n\t- b", "tags", ["a", "b"]),
        ("version: 1.10", "version", "1.10"),
        ("version: 2024-01-01", "version", "2024-01-01"),
        ("license: [mit, null, 5]", "license", "mit,5"),
        ("description: null", "description", None),
        ("description: |\n  A model", "description", "A model\n"),
        ("- language", "languages", None),
    ],
)
def test_card_is_taken_as_it_is_spelled(card: str, key: str, expected: object, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    assert card_of(folder, card, tmp_path / "out.gguf").get(f"general.{key}") == expected


def test_whole_floats_are_whole_numbers(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    write_json(folder / "generation_config.json", {"top_k": 50.0, "temperature": 1, "top_p": None, "mirostat": 0})
    with read(convert(folder, tmp_path / "out.gguf")) as model:
        found = {key: value.value for key, value in model.metadata.items() if ".sampling." in key}
    assert found == {"general.sampling.top_k": 50, "general.sampling.temp": 1.0, "general.sampling.mirostat": 0}


def test_folder_names_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny(tmp_path / "some-model-2B-chat")
    (folder / "README.md").unlink(missing_ok=True)
    monkeypatch.chdir(folder)
    with read(convert(".", tmp_path / "out.gguf")) as model:
        assert model.get("general.name") == "Some Model 2B Chat"
    shutil.rmtree(folder)
