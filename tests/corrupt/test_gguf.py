"""One test a corruption: each is refused with an error that names the file, the field, what was expected and found."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.errors import GGUFError
from quantpress.gguf import read
from tests.corrupt import forge
from tests.corrupt.forge import TYPE_F32, TYPE_Q4_0, TYPE_Q4_K, Forge, info

Refused = Callable[..., GGUFError]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Writes the bytes and returns the error, having checked that its message has all the parts."""

    def refuse(content: Forge | bytes, field: str, *, expected: str, found: str) -> GGUFError:
        path = tmp_path / "hostile.gguf"
        path.write_bytes(content if isinstance(content, bytes) else content.bytes())
        with pytest.raises(GGUFError) as caught:
            read(path)
        error = caught.value
        assert error.path == path
        assert error.field == field
        assert expected in str(error.expected)
        assert found in str(error.found)
        message = str(error)
        assert str(path) in message
        assert all(str(part) in message for part in (error.field, error.expected, error.found))
        return error

    return refuse


def test_forged_file_is_valid(tmp_path: Path) -> None:
    model = read(Forge().write(tmp_path / "good.gguf"))
    assert model.get("answer") == 42
    assert {name: tensor.shape for name, tensor in model.tensors.items()} == {"a": (8, 2), "b": (4,)}
    assert model.data("b").tobytes() == bytes(range(64, 80))


# the file


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"none\.gguf: file: expected a readable file, found No such file"):
        read(tmp_path / "none.gguf")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="expected a regular file"):
        read(tmp_path)


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GGUFError, match="expected a regular file"):
        read(tmp_path / "pipe.gguf")


def test_empty_file(refused: Refused) -> None:
    refused(b"", "magic", expected="GGUF", found="an empty file")


# magic, version, byte order


def test_magic(refused: Refused) -> None:
    refused(Forge(magic=b"GGML"), "magic", expected="GGUF", found="GGML")


def test_short_magic(refused: Refused) -> None:
    refused(b"GG", "magic", expected="GGUF", found="GG")


@pytest.mark.parametrize("version", [0, 1, 4, 0xFFFFFFFF])
def test_version(refused: Refused, version: int) -> None:
    refused(Forge(version=version), "version", expected="2 or 3", found=str(version))


def test_version_2_is_accepted(tmp_path: Path) -> None:
    assert read(Forge(version=2).write(tmp_path / "v2.gguf")).version == 2


def test_foreign_byte_order(refused: Refused) -> None:
    refused(Forge(version=0x03000000), "version", expected="little-endian", found="3 in big-endian")


# counts


@pytest.mark.parametrize("count", [100_001, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_number_of_keys_over_the_cap(refused: Refused, count: int) -> None:
    refused(Forge(key_count=count), "number of keys", expected="at most 100,000", found=f"{count:,}")


def test_number_of_keys_over_the_file(refused: Refused) -> None:
    refused(Forge(key_count=99_999), "number of keys", expected="rest of the file", found="99,999")


@pytest.mark.parametrize("count", [1_000_001, 1 << 32, 1 << 63, (1 << 64) - 1])
def test_number_of_tensors_over_the_cap(refused: Refused, count: int) -> None:
    refused(Forge(tensor_count=count), "number of tensors", expected="at most 1,000,000", found=f"{count:,}")


def test_number_of_tensors_over_the_file(refused: Refused) -> None:
    refused(Forge(tensor_count=999_999), "number of tensors", expected="rest of the file", found="999,999")


# keys


def test_key_over_the_cap(refused: Refused) -> None:
    forged = Forge(keys=(forge.u32(b"k" * 65_536, 1),))
    refused(forged, "key 0", expected="at most 65,535 bytes", found="65,536")


def test_key_of_the_cap_is_accepted(tmp_path: Path) -> None:
    model = read(Forge(keys=(forge.u32(b"k" * 65_535, 7),)).write(tmp_path / "long.gguf"))
    assert model.get("k" * 65_535) == 7


def test_key_longer_than_the_file(refused: Refused) -> None:
    content = Forge(keys=(), key_count=1, infos=(), data=b"").header() + struct.pack("<Q", 60_000) + b"short" * 10
    refused(content, "key 0", expected="60,000 bytes", found="50 before the end")


def test_empty_key(refused: Refused) -> None:
    refused(Forge(keys=(forge.u32(b"", 1),)), "key 0", expected="1 to 65,535 bytes", found="0 bytes")


def test_duplicate_key(refused: Refused) -> None:
    refused(Forge(keys=(forge.u32(b"k", 1), forge.u32(b"k", 2))), "key 'k'", expected="unique", found="second")


def test_key_that_is_no_utf8(refused: Refused) -> None:
    refused(Forge(keys=(forge.u32(b"caf\xe9", 1),)), "key 0", expected="UTF-8", found=r"b'caf\xe9'")


def test_key_with_surrogate(refused: Refused) -> None:
    refused(Forge(keys=(forge.u32(b"\xed\xa0\x80", 1),)), "key 0", expected="UTF-8", found=r"b'\xed\xa0\x80'")


def test_key_with_zero_byte(refused: Refused) -> None:
    refused(Forge(keys=(forge.u32(b"a\0b", 1),)), "key 0", expected="without a zero byte", found=r"'a\x00b'")


# values


@pytest.mark.parametrize("kind", [13, 255, 0xFFFFFFFF])
def test_value_type(refused: Refused, kind: int) -> None:
    refused(Forge(keys=(forge.key(b"k", kind, b"\0" * 8),)), "key 'k': type", expected="0 to 12", found=str(kind))


def test_item_type(refused: Refused) -> None:
    forged = Forge(keys=(forge.array(b"k", 13, 1, b"\0" * 8),))
    refused(forged, "key 'k': type of the items", expected="0 to 12", found="13")


@pytest.mark.parametrize("byte", [2, 0x80, 0xFF])
def test_boolean(refused: Refused, byte: int) -> None:
    refused(Forge(keys=(forge.key(b"k", forge.BOOL, bytes([byte])),)), "key 'k'", expected="0 or 1", found=str(byte))


def test_boolean_in_array(refused: Refused) -> None:
    refused(Forge(keys=(forge.array(b"k", forge.BOOL, 4, b"\1\0\5\1"),)), "key 'k'", expected="0 or 1", found="5")


def test_nested_array(refused: Refused) -> None:
    inner = struct.pack("<IQ", forge.U8, 2) + b"\1\2"
    refused(Forge(keys=(forge.array(b"k", forge.ARRAY, 1, inner),)), "key 'k'", expected="flat", found="of arrays")


@pytest.mark.parametrize("count", [1000, 1 << 40, 1 << 61, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("item", [forge.U8, forge.BOOL, forge.U64, forge.STRING])
def test_array_longer_than_the_file(refused: Refused, item: int, count: int) -> None:
    forged = Forge(keys=(forge.array(b"k", item, count, b"\0" * 16),))
    refused(forged, "key 'k': number of items", expected="rest of the file", found=f"{count:,}")


@pytest.mark.parametrize("size", [10_000_001, 1 << 40, (1 << 64) - 1])
def test_text_over_the_cap(refused: Refused, size: int) -> None:
    forged = Forge(keys=(forge.key(b"k", forge.STRING, struct.pack("<Q", size)),))
    refused(forged, "key 'k'", expected="at most 10,000,000 bytes", found=f"{size:,}")


def test_text_longer_than_the_file(refused: Refused) -> None:
    forged = Forge(keys=(forge.key(b"k", forge.STRING, struct.pack("<Q", 9_999_999)),))
    refused(forged, "key 'k'", expected="9,999,999 bytes", found="before the end of the file")


@pytest.mark.parametrize("size", [10_000_001, 1 << 62, (1 << 64) - 1])
def test_text_in_array_over_the_cap(refused: Refused, size: int) -> None:
    forged = Forge(keys=(forge.array(b"k", forge.STRING, 2, forge.text(b"good") + struct.pack("<Q", size)),))
    refused(forged, "key 'k': item 1", expected="at most 10,000,000 bytes", found=f"{size:,}")


def test_text_in_array_longer_than_the_file(refused: Refused) -> None:
    forged = Forge(keys=(forge.array(b"k", forge.STRING, 2, forge.text(b"good") + struct.pack("<Q", 5_000)),))
    refused(forged, "key 'k': item 1", expected="5,000 bytes", found="before the end of the file")


@pytest.mark.parametrize("inside", ["a value", "an array"])
def test_text_over_the_cap_that_the_file_holds(tmp_path: Path, inside: str) -> None:
    size = struct.pack("<Q", 10_000_001)
    key = forge.key(b"k", forge.STRING, size) if inside == "a value" else forge.array(b"k", forge.STRING, 1, size)
    path = Forge(keys=(key,), infos=(), data=b"").write(tmp_path / "sparse.gguf")
    os.truncate(path, 20_000_000)
    with pytest.raises(GGUFError, match="expected at most 10,000,000 bytes, found 10,000,001"):
        read(path)


def test_texts_in_array_that_run_out(refused: Refused) -> None:
    content = Forge(keys=(), key_count=1, infos=(), data=b"").header()
    content += forge.array(b"k", forge.STRING, 3, forge.text(b"x" * 8) + forge.text(b"x" * 3))
    refused(content, "key 'k': item 2: length", expected="8 bytes", found="0 before the end of the file")


def test_text_that_is_no_utf8_is_kept(tmp_path: Path) -> None:
    keys = (forge.key(b"s", forge.STRING, forge.text(b"\xff\0ok")), forge.array(b"a", 8, 1, forge.text(b"\xc3")))
    model = read(Forge(keys=keys).write(tmp_path / "odd.gguf"))
    assert model.get("s").encode("utf-8", "surrogateescape") == b"\xff\0ok"
    assert [item.encode("utf-8", "surrogateescape") for item in model.get("a")] == [b"\xc3"]


# alignment


@pytest.mark.parametrize("alignment", [0, 3, 33, 1 << 21, 0xFFFFFFFF])
def test_alignment(refused: Refused, alignment: int) -> None:
    forged = Forge(keys=(forge.u32(b"general.alignment", alignment),))
    refused(forged, "general.alignment", expected="power of two up to 1,048,576", found=str(alignment))


def test_alignment_of_another_type(refused: Refused) -> None:
    forged = Forge(keys=(forge.u16(b"general.alignment", 32),))
    refused(forged, "general.alignment", expected="UINT32", found="UINT16")


# tensors


def tensors(*infos: bytes, data: bytes = bytes(4096)) -> Forge:
    return Forge(infos=infos, data=data)


def test_tensor_name_over_63_bytes(refused: Refused) -> None:
    forged = tensors(info(b"n" * 64, (4,), TYPE_F32, 0))
    refused(forged, "tensor 0: name", expected="at most 63 bytes", found="64")


def test_tensor_name_of_63_bytes_is_accepted(tmp_path: Path) -> None:
    model = read(tensors(info(b"n" * 63, (4,), TYPE_F32, 0)).write(tmp_path / "long.gguf"))
    assert list(model.tensors) == ["n" * 63]


def test_tensor_name_that_is_no_utf8(refused: Refused) -> None:
    refused(tensors(info(b"\xff\xfe", (4,), TYPE_F32, 0)), "tensor 0: name", expected="UTF-8", found=r"b'\xff\xfe'")


def test_empty_tensor_name(refused: Refused) -> None:
    refused(tensors(info(b"", (4,), TYPE_F32, 0)), "tensor 0: name", expected="1 to 63 bytes", found="0 bytes")


def test_duplicate_tensor(refused: Refused) -> None:
    forged = tensors(info(b"t", (4,), TYPE_F32, 0), info(b"t", (4,), TYPE_F32, 32))
    refused(forged, "tensor 't'", expected="unique names", found="second")


@pytest.mark.parametrize("dimensions", [5, 0xFFFFFFFF])
def test_dimensions_over_4(refused: Refused, dimensions: int) -> None:
    forged = tensors(info(b"t", (1,) * 5, TYPE_F32, 0, dimensions=dimensions))
    refused(forged, "tensor 't': number of dimensions", expected="at most 4", found=f"{dimensions:,}")


@pytest.mark.parametrize("axis", [0, 1])
def test_dimension_of_zero(refused: Refused, axis: int) -> None:
    shape = (0, 4) if axis == 0 else (4, 0)
    refused(tensors(info(b"t", shape, TYPE_F32, 0)), f"tensor 't': dimension {axis}", expected="1 or more", found="0")


@pytest.mark.parametrize("size", [-1, -32, -(1 << 63)])
def test_negative_dimension(refused: Refused, size: int) -> None:
    forged = tensors(info(b"t", (32, size), TYPE_Q4_0, 0))
    refused(forged, "tensor 't': dimension 1", expected="1 or more", found=str(size))


@pytest.mark.parametrize("shape", [(1 << 32, 1 << 32), (1 << 62, 4, 1 << 62), (1 << 62, 2), (3, (1 << 63) - 1)])
def test_dimensions_whose_product_overflows(refused: Refused, shape: tuple[int, ...]) -> None:
    refused(tensors(info(b"t", shape, TYPE_F32, 0)), "tensor 't': shape", expected="2^63", found=str(shape))


def test_size_in_bytes_that_overflows(refused: Refused) -> None:
    forged = tensors(info(b"t", (1 << 62,), TYPE_F32, 0))  # 2^64 bytes: 0 in 64 bits
    refused(forged, "tensor 't': data", expected="18,446,744,073,709,5", found=f"{len(forged.bytes()):,}")


def test_padding_that_overflows(refused: Refused) -> None:
    size = (1 << 62) - 1  # of 4 bytes each: 2^64 - 4 bytes, padded 0 in 64 bits
    forged = tensors(info(b"t", (size,), TYPE_F32, 0), info(b"u", (4,), TYPE_F32, 0))
    refused(forged, "tensor 't': data", expected="18,446,744,073,709,5", found=f"{len(forged.bytes()):,}")


@pytest.mark.parametrize("kind", [4, 5, 9, 31, 36, 43, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unknown_tensor_type(refused: Refused, kind: int) -> None:
    refused(tensors(info(b"t", (256,), kind, 0)), "tensor 't': type", expected="a known type", found=str(kind))


@pytest.mark.parametrize(("kind", "block"), [(TYPE_Q4_0, 32), (TYPE_Q4_K, 256)])
def test_row_that_is_no_multiple_of_the_block(refused: Refused, kind: int, block: int) -> None:
    forged = tensors(info(b"t", (block + 1, block), kind, 0))
    refused(forged, "tensor 't': dimension 0", expected=f"a multiple of {block}", found=str(block + 1))


# offsets


def test_misaligned_offset(refused: Refused) -> None:
    forged = tensors(info(b"t", (4,), TYPE_F32, 0), info(b"u", (4,), TYPE_F32, 16))
    refused(forged, "tensor 'u': offset", expected="32", found="16")


def test_first_offset_not_zero(refused: Refused) -> None:
    refused(tensors(info(b"t", (4,), TYPE_F32, 32)), "tensor 't': offset", expected="0", found="32")


def test_offsets_out_of_sequence(refused: Refused) -> None:
    forged = tensors(info(b"t", (4,), TYPE_F32, 32), info(b"u", (4,), TYPE_F32, 0))
    refused(forged, "tensor 't': offset", expected="0", found="32")


def test_overlapping_tensors(refused: Refused) -> None:
    forged = tensors(info(b"t", (64,), TYPE_F32, 0), info(b"u", (64,), TYPE_F32, 128))
    refused(forged, "tensor 'u': offset", expected="256", found="128")


def test_gap_between_tensors(refused: Refused) -> None:
    forged = tensors(info(b"t", (4,), TYPE_F32, 0), info(b"u", (4,), TYPE_F32, 64))
    refused(forged, "tensor 'u': offset", expected="32", found="64")


@pytest.mark.parametrize("offset", [1 << 40, (1 << 64) - 32])
def test_offset_outside_of_the_file(refused: Refused, offset: int) -> None:
    forged = tensors(info(b"t", (4,), TYPE_F32, 0), info(b"u", (4,), TYPE_F32, offset))
    refused(forged, "tensor 'u': offset", expected="32", found=str(offset))


def test_offsets_of_another_alignment(refused: Refused) -> None:
    keys = (forge.u32(b"general.alignment", 64),)
    infos = (info(b"t", (4,), TYPE_F32, 0), info(b"u", (4,), TYPE_F32, 32))
    refused(Forge(keys=keys, infos=infos, alignment=64), "tensor 'u': offset", expected="64", found="32")


# truncation


def test_truncated_data(refused: Refused) -> None:
    content = Forge().bytes()
    refused(content[:-17], "tensor 'b': data", expected=f"a file of {len(content) - 16}", found=f"{len(content) - 17}")


def test_missing_padding_at_the_end_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(Forge().bytes()[:-16])
    assert read(path).data("b").shape == (1, 16)
