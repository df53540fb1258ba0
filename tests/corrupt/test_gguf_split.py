"""Parts that are missing or disagree: one test a corruption."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from quantpress.errors import GGUFError
from quantpress.gguf import read
from tests.corrupt import forge
from tests.corrupt.forge import TYPE_F32, Forge, info


def part(number: int, *names: bytes, count: int = 3, total: int = 4, without: bytes = b"") -> Forge:
    """Part `number` (from 0) with F32 tensors of 8 weights."""
    keys = {
        b"split.no": forge.u16(b"split.no", number),
        b"split.count": forge.u16(b"split.count", count),
        b"split.tensors.count": forge.i32(b"split.tensors.count", total),
    }
    infos = tuple(info(name, (8,), TYPE_F32, 32 * index) for index, name in enumerate(names))
    return Forge(keys=tuple(v for k, v in keys.items() if k != without), infos=infos, data=bytes(32 * len(names)))


GOOD = (part(0, b"a", b"b"), part(1, b"c"), part(2, b"d"))


def model(folder: Path, *parts: Forge | None, name: str = "m-{:05d}-of-00003.gguf") -> Path:
    for number, forged in enumerate(parts, 1):
        if forged is not None:
            forged.write(folder / name.format(number))
    return folder / name.format(1)


def test_forged_model_is_valid(tmp_path: Path) -> None:
    assert list(read(model(tmp_path, *GOOD)).tensors) == ["a", "b", "c", "d"]


def refused(first: Path, file: str, field: str, expected: str, found: str) -> None:
    with pytest.raises(GGUFError) as caught:
        read(first)
    error = caught.value
    assert (error.path, error.field) == (first.with_name(file), field)
    assert expected in str(error.expected)
    assert found in str(error.found)
    assert str(error.path) in str(error)


@pytest.mark.parametrize("missing", [2, 3])
def test_missing_part(tmp_path: Path, missing: int) -> None:
    parts = [None if number == missing else forged for number, forged in enumerate(GOOD, 1)]
    first = model(tmp_path, *parts)
    refused(first, f"m-0000{missing}-of-00003.gguf", f"part {missing} of 3", expected="a file", found="none")


def test_missing_first_part(tmp_path: Path) -> None:
    first = model(tmp_path, None, *GOOD[1:])
    refused(first, first.name, "file", expected="a readable file", found="No such file")


def test_another_part_given(tmp_path: Path) -> None:
    model(tmp_path, *GOOD)
    with pytest.raises(GGUFError, match=r"split\.no: expected 0, found 1\. Give the first part"):
        read(tmp_path / "m-00002-of-00003.gguf")


@pytest.mark.parametrize("name", ["m{}.gguf", "m-{:05d}-of-00004.gguf", "m-{}-of-3.gguf", "-{:05d}-of-00003.gguf"])
def test_name_that_is_not_of_a_part(tmp_path: Path, name: str) -> None:
    first = model(tmp_path, *GOOD, name=name)
    refused(first, first.name, "file name", expected="-00001-of-00003.gguf", found=first.name)


def test_wrong_number(tmp_path: Path) -> None:
    first = model(tmp_path, GOOD[0], part(2, b"c"), GOOD[2])
    refused(first, "m-00002-of-00003.gguf", "split.no", expected="1", found="2")


def test_wrong_count(tmp_path: Path) -> None:
    first = model(tmp_path, *GOOD[:2], part(2, b"d", count=4))
    refused(first, "m-00003-of-00003.gguf", "split.count", expected="3", found="4")


def test_count_that_asks_for_more_parts(tmp_path: Path) -> None:
    first = model(tmp_path, part(0, b"a", count=0xFFFF))
    refused(first, first.name, "file name", expected="-00001-of-65535.gguf", found=first.name)


def test_wrong_number_of_tensors_in_a_part(tmp_path: Path) -> None:
    first = model(tmp_path, *GOOD[:2], part(2, b"d", total=5))
    refused(first, "m-00003-of-00003.gguf", "split.tensors.count", expected="4", found="5")


@pytest.mark.parametrize("total", [3, 5, -1, 0x7FFFFFFF])
def test_wrong_number_of_tensors_in_all_parts(tmp_path: Path, total: int) -> None:
    parts = (part(0, b"a", b"b", total=total), part(1, b"c", total=total), part(2, b"d", total=total))
    first = model(tmp_path, *parts)
    refused(first, first.name, "split.tensors.count", expected="4, as in the parts", found=str(total))


def test_tensor_in_two_parts(tmp_path: Path) -> None:
    first = model(tmp_path, *GOOD[:2], part(2, b"a"))
    refused(first, first.name, "tensor 'a'", expected="unique names", found="a second one")


@pytest.mark.parametrize("key", [b"split.no", b"split.tensors.count"])
def test_first_part_without_a_key(tmp_path: Path, key: bytes) -> None:
    first = model(tmp_path, part(0, b"a", b"b", without=key), *GOOD[1:])
    refused(first, first.name, key.decode(), expected="INT", found="no such key")


@pytest.mark.parametrize("key", [b"split.no", b"split.count", b"split.tensors.count"])
def test_later_part_without_a_key(tmp_path: Path, key: bytes) -> None:
    first = model(tmp_path, GOOD[0], part(1, b"c", without=key), GOOD[2])
    refused(first, "m-00002-of-00003.gguf", key.decode(), expected="INT", found="no such key")


def test_key_of_another_type(tmp_path: Path) -> None:
    forged = Forge(keys=(forge.u32(b"split.count", 3),))
    first = model(tmp_path, forged)
    refused(first, first.name, "split.count", expected="UINT16", found="UINT32")


def test_malformed_part(tmp_path: Path) -> None:
    first = model(tmp_path, *GOOD)
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(struct.pack("<4sI", b"GGML", 3))
    refused(first, "m-00003-of-00003.gguf", "magic", expected="GGUF", found="GGML")


def test_truncated_part(tmp_path: Path) -> None:
    first = model(tmp_path, *GOOD)
    second = tmp_path / "m-00002-of-00003.gguf"
    second.write_bytes(second.read_bytes()[:-1])
    refused(first, second.name, "tensor 'c': data", expected="or more", found=str(second.stat().st_size))
