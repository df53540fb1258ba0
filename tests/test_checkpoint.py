"""A Hugging Face folder: which files are taken, which are refused, and what is read of a tensor."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quantpress.checkpoint import Section, read
from quantpress.convert.sources import stored
from quantpress.errors import CheckpointError
from quantpress.safetensors import read_safetensors
from tests.checkpoints import edit_json, tiny, write_json, write_safetensors, write_shards


def test_reads_the_demo(demo: Path) -> None:
    checkpoint = read(demo)
    assert checkpoint.config.integer("hidden_size") == 256
    assert len(checkpoint.tensors) == 80
    tensor = checkpoint.tensors["model.layers.3.mlp.down_proj.weight"]
    assert (tensor.shape, tensor.dtype) == ((256, 1024), "BF16")
    raw = (demo / "model.safetensors").read_bytes()[tensor.offset :][: 256 * 1024 * 2]
    expected = gguf.quants.dequantize(np.frombuffer(raw, np.uint8), gguf.GGMLQuantizationType.BF16)
    np.testing.assert_array_equal(stored(tensor).floats(100, 103), expected.reshape(256, 1024)[100:103])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_dtypes(dtype: str, tmp_path: Path) -> None:
    values = np.array([[0.5, -1.25, 3.0], [65504.0, 0.0, -0.0], [2.0**-14, 1.0, -2.0]], np.float32)
    if dtype == "BF16":
        values[1, 0] = 65536.0
    write_safetensors(tmp_path / "t.safetensors", {"w": values}, dtype)
    found = stored(read_safetensors(tmp_path / "t.safetensors")["w"]).floats()
    assert found.dtype == np.float32
    assert found.tobytes() == values.tobytes()


def test_dtype_that_holds_no_weights(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "t.safetensors", {"w": np.zeros((2, 2))}, "I64")
    with pytest.raises(CheckpointError, match=r"w: dtype: expected F32, F16, BF16, .*, found I64"):
        stored(read_safetensors(tmp_path / "t.safetensors")["w"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_by_a_tile(tmp_path: Path) -> None:
    """512 MB of zeros, which take no disk, pass through a fresh process as tiles of 4 MB."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [32768, 4096], "data_offsets": [0, 1 << 29]}}).encode()
    path = tmp_path / "t.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 29))
    command = [sys.executable, "-c", _READ_ALL, str(path)]
    rows, before, after = map(int, subprocess.check_output(command).split())
    assert rows == 32768
    assert (after - before) * resource.getpagesize() < 30 << 20


_READ_ALL = """
import sys
from pathlib import Path
from quantpress.convert.sources import stored
from quantpress.safetensors import read_safetensors
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = peak = resident()
rows = 0
source = stored(read_safetensors(Path(sys.argv[1]))["w"])
for start, stop in source.cuts():
    rows, peak = rows + len(source.read(start, stop)), max(peak, resident())
print(rows, before, peak)
"""


# Folders


def refuses(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    for word in words:
        assert word in str(caught.value)


def test_shards_equal_one_file(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", dtype="F32")
    whole = {name: tensor.read(0, 1).tobytes() for name, tensor in read(folder).tensors.items()}
    tensors = {name: stored(tensor).floats().reshape(tensor.shape) for name, tensor in read(folder).tensors.items()}
    (folder / "model.safetensors").unlink()
    write_shards(folder, tensors, 3, "F32")
    sharded = read(folder).tensors
    assert {tensor.path.name for tensor in sharded.values()} == {
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    }
    assert {name: tensor.read(0, 1).tobytes() for name, tensor in sharded.items()} == whole


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Three tensors in two shards."""
    write_json(tmp_path / "config.json", {})
    write_shards(tmp_path, {name: np.ones((2, 2), np.float32) for name in "abc"}, 2, "F32")
    return tmp_path


def weight_map(folder: Path, **changes: Any) -> None:
    index = folder / "model.safetensors.index.json"
    merged = json.loads(index.read_text())["weight_map"] | changes
    edit_json(index, weight_map={name: shard for name, shard in merged.items() if shard is not None})


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    refuses(sharded, "shards", "no model-00002-of-00002.safetensors")


def test_index_names_a_tensor_that_no_shard_holds(sharded: Path) -> None:
    weight_map(sharded, d="model-00002-of-00002.safetensors")
    refuses(sharded, "index.json: d", "no shard that holds it")


def test_index_names_the_wrong_shard(sharded: Path) -> None:
    weight_map(sharded, a="model-00002-of-00002.safetensors")
    refuses(sharded, "index.json: a", "found model-00001-of-00002.safetensors")


def test_index_leaves_a_tensor_out(sharded: Path) -> None:
    weight_map(sharded, c=None)
    refuses(sharded, "weight_map", "1 more: c")


def test_tensor_in_two_shards(sharded: Path) -> None:
    write_safetensors(sharded / "model-00002-of-00002.safetensors", {name: np.ones((2, 2)) for name in "ab"})
    refuses(sharded, "model-00002-of-00002.safetensors: a", "also model-00001-of-00002.safetensors")


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", "model.bin", "", 5])
def test_index_leads_out_of_the_folder(sharded: Path, shard: Any) -> None:
    weight_map(sharded, a=shard)
    refuses(sharded, "weight_map.a")


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    refuses(sharded, "model.safetensors.index.json", "found none")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"])
def test_pickle(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    refuses(tmp_path, "expected safetensors", f"pickle ({name})", "Convert it to safetensors")


def single(folder: Path, name: str = "model.safetensors") -> Path:
    """A folder with one tensor, in a file of this name."""
    write_json(folder / "config.json", {})
    write_safetensors(folder / name, {"a": np.ones((2, 2))})
    return folder


def test_single_file_comes_before_an_index(sharded: Path) -> None:
    """As in transformers: the index and the shards are left over from something else."""
    assert list(read(single(sharded)).tensors) == ["a"]
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert {tensor.path.name for tensor in read(sharded).tensors.values()} == {"model.safetensors"}


@pytest.mark.parametrize(
    "other",
    [
        "model.fp16.safetensors",
        "model_quantized.safetensors",
        "model-00001-of-00002.safetensors",
        "consolidated.safetensors",
        "original/model.safetensors",
    ],
)
def test_other_safetensors_files_are_left_alone(other: str, tmp_path: Path) -> None:
    single(tmp_path)
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_bytes(b"nonsense")
    assert list(read(tmp_path).tensors) == ["a"]


def test_the_only_shard_needs_no_index(tmp_path: Path) -> None:
    single(tmp_path, "model-00001-of-00001.safetensors")
    (tmp_path / "consolidated.safetensors").write_bytes(b"nonsense")
    assert list(read(tmp_path).tensors) == ["a"]


def test_one_shard_of_several_needs_an_index(tmp_path: Path) -> None:
    refuses(single(tmp_path, "model-00001-of-00002.safetensors"), "model.safetensors.index.json", "found none")


def test_safetensors_of_another_name(tmp_path: Path) -> None:
    refuses(single(tmp_path, "model.fp16.safetensors"), "weights: expected model.safetensors or", "model.fp16")


def test_a_folder_in_the_cache_has_the_repository_s_name(tmp_path: Path) -> None:
    """It is what `hf download` prints; the name of its own is a commit's hash."""
    folder = tmp_path / "models--acme--Tiny-2B" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    assert read(single(folder)).name == "Tiny-2B"


def test_pickle_beside_safetensors_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    write_safetensors(tmp_path / "model.safetensors", {"a": np.ones((2, 2))})
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    assert list(read(tmp_path).tensors) == ["a"]


def test_no_weights(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    refuses(tmp_path, "weights", "found neither")


def test_no_config(tmp_path: Path) -> None:
    refuses(tmp_path, "config.json: expected a file")


def test_no_folder(tmp_path: Path) -> None:
    refuses(tmp_path / "none", "expected a folder")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_malformed_config(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    refuses(tmp_path, "config.json: file")


# Fields


@pytest.mark.parametrize("value", [None, 0, -1, 1.0, "1", True, 1 << 31, [1]])
def test_field_that_is_no_count(value: Any) -> None:
    with pytest.raises(
        CheckpointError, match=r"config\.json: text_config\.n: expected a whole number from 1 on, found"
    ):
        Section(Path("config.json"), {"n": value}, "text_config").integer("n")


@pytest.mark.parametrize("value", [None, 0, -0.5, float("inf"), float("nan"), "1", True])
def test_field_that_is_no_number(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: x: expected a positive number"):
        Section(Path("config.json"), {"x": value}).number("x")


@pytest.mark.parametrize("value", [None, 5, "\ud800", []])
def test_field_that_is_no_text(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: x: expected a string"):
        Section(Path("config.json"), {"x": value}).text("x")


def test_null_counts_as_absent() -> None:
    section = Section(Path("config.json"), {"n": None, "m": 3})
    assert section.integer("n", 7) == 7
    assert section.merged({"m": None, "n": 5}).values == {"n": 5, "m": 3}
