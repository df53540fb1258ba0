"""One test a corruption of a safetensors file; each error names the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress.errors import CheckpointError
from quantpress.safetensors import MAX_HEADER_BYTES, read_safetensors


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write(folder: Path, header: Any, data: int = 24, length: int | None = None) -> Path:
    """A file with this header (an object, or its text) and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def refuses(path: Path, *words: str) -> None:
    """Reading raises one CheckpointError that begins with the file's name and has all the words."""
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(str(path))
    for word in words:
        assert word in str(caught.value)


def test_valid(tmp_path: Path) -> None:
    header = {"b": entry([2, 3], 0, 24), "a": entry([], 24, 28), "empty": entry([0, 5], 24, 24), "__metadata__": {}}
    tensors = read_safetensors(write(tmp_path, header, 28))
    assert list(tensors) == ["a", "b", "empty"]
    assert tensors["b"].shape == (2, 3)
    np.testing.assert_array_equal(tensors["b"].read(0, 2), np.zeros((2, 12)))


@pytest.mark.parametrize("size", [0, 7])
def test_no_room_for_the_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    refuses(path, "header length", f"a file of {size}", "truncated")


def test_header_over_the_cap(tmp_path: Path) -> None:
    path = write(tmp_path, b"{}", 0, MAX_HEADER_BYTES + 1)
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER_BYTES + 100)  # sparse: the length alone is at fault
    refuses(path, "header length", "at most 100,000,000")


def test_header_beyond_the_file(tmp_path: Path) -> None:
    refuses(write(tmp_path, b"{}", 0, 3), "header length", "within the file", "truncated")


def test_header_length_of_64_bits(tmp_path: Path) -> None:
    refuses(write(tmp_path, b"{}", 0, 2**64 - 1), "header length")


@pytest.mark.parametrize("text", [b"", b"[]", b' {"a": 1}', b"\x80\x04K\x01."])
def test_no_object(tmp_path: Path, text: bytes) -> None:
    refuses(write(tmp_path, text), "header", "a JSON object")


@pytest.mark.parametrize("text", [b"{", b'{"a": }', b'{"\xff": 1}', b"{}{}", b'{"a":' * 100_000])
def test_malformed_json(tmp_path: Path, text: bytes) -> None:
    refuses(write(tmp_path, text), "header", "JSON in UTF-8")


def test_tensor_twice(tmp_path: Path) -> None:
    one = json.dumps(entry([6], 0, 24))
    refuses(write(tmp_path, f'{{"a": {one}, "a": {one}}}'.encode()), "'a' twice")


def test_field_twice(tmp_path: Path) -> None:
    text = b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [6], "data_offsets": [0, 24]}}'
    refuses(write(tmp_path, text), "'dtype' twice")


@pytest.mark.parametrize("comments", [[], "text", {"format": 1}, None])
def test_comments_that_are_no_strings(tmp_path: Path, comments: Any) -> None:
    refuses(write(tmp_path, {"__metadata__": comments}, 0), "__metadata__")


@pytest.mark.parametrize("value", [None, [], 5, {}, {"dtype": "F32", "shape": [6]}])
def test_entry_that_is_no_tensor(tmp_path: Path, value: Any) -> None:
    refuses(write(tmp_path, {"a": value}), "a: ", "an object of dtype, shape, data_offsets")


@pytest.mark.parametrize("dtype", ["F33", "", None, 5, ["F32"]])
def test_unknown_dtype(tmp_path: Path, dtype: Any) -> None:
    refuses(write(tmp_path, {"a": {**entry([6], 0, 24), "dtype": dtype}}), "a: dtype")


@pytest.mark.parametrize("shape", [None, 6, [-6], [6.0], [True], ["6"], [2**63], [1] * 9])
def test_malformed_shape(tmp_path: Path, shape: Any) -> None:
    refuses(write(tmp_path, {"a": {**entry([6], 0, 24), "shape": shape}}), "a: shape")


@pytest.mark.parametrize("offsets", [None, [0], [0, 24, 24], [24, 0], [-24, 0], [0.0, 24], [True, 24]])
def test_malformed_offsets(tmp_path: Path, offsets: Any) -> None:
    refuses(write(tmp_path, {"a": {**entry([6], 0, 24), "data_offsets": offsets}}), "a: data_offsets")


def test_data_beyond_the_file(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([6], 0, 24)}, 23), "a: end of data", "at most 23", "found 24")


@pytest.mark.parametrize("shape", [[5], [7], [2, 2], [0]])
def test_size_that_is_not_shape_times_dtype(tmp_path: Path, shape: list[int]) -> None:
    refuses(write(tmp_path, {"a": entry(shape, 0, 24)}), "a: data_offsets", "found 24")


def test_size_that_overflows_64_bits(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([2**62, 4], 0, 0)}, 0), "a: data_offsets")


def test_hole_at_the_start(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([5], 4, 24)}), "a: start of data", "hole", "expected 0", "found 4")


def test_hole_between(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([2], 0, 8), "b": entry([3], 12, 24)}), "b: start of data", "hole")


def test_overlap(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([3], 0, 12), "b": entry([4], 8, 24)}), "b: start of data", "overlaps")


def test_same_data_twice(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([6], 0, 24), "b": entry([6], 0, 24)}), "start of data", "overlaps")


def test_data_that_no_tensor_has(tmp_path: Path) -> None:
    refuses(write(tmp_path, {"a": entry([6], 0, 24)}, 25), "end of data", "expected 24", "found 25")


def test_truncated_real_file(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((demo / "model.safetensors").read_bytes()[:-1])
    refuses(path, "end of data", "The file is truncated")


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": entry([6], 0, 24)})
    tensor = read_safetensors(path)["a"]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="a: expected 24 bytes from row 0 on, found 16"):
        tensor.read(0, 1)


def test_missing_file(tmp_path: Path) -> None:
    refuses(tmp_path / "none.safetensors", "cannot be read")
