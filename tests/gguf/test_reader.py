"""The reader sees what others wrote: the `gguf` package's writer, and ggml as a second witness."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantpress.gguf import GGUF, Metadata, Value, ValueType, read
from tests.gguf import ggml
from tests.gguf.samples import METADATA, SPECS, agrees_with_gguf, rows_of, write, write_with_gguf


@pytest.mark.parametrize("alignment", [None, 1, 8, 32, 64, 4096, 1 << 20])
def test_reads_what_gguf_writes(tmp_path: Path, alignment: int | None) -> None:
    metadata = dict(METADATA)
    if alignment is not None:
        metadata["general.alignment"] = Value.u32(alignment)
    write_with_gguf(tmp_path / "theirs.gguf", metadata, SPECS)
    with read(tmp_path / "theirs.gguf") as model:
        assert model.version == 3
        assert model.alignment == (alignment or 32)
        assert list(model.metadata.items()) == list(metadata.items())
        assert [(t.name, t.shape, t.type) for t in model.tensors.values()] == [(s.name, s.shape, s.type) for s in SPECS]
        assert all(tensor.offset % model.alignment == 0 for tensor in model.tensors.values())
        for spec in SPECS:
            np.testing.assert_array_equal(model.data(spec.name), rows_of(spec))


def test_values_of_floats(tmp_path: Path) -> None:
    """Through the package's own array path, without our notion of rows."""
    values = np.linspace(-3, 5, 24, dtype=np.float32).reshape(4, 6)
    writer = gguf.GGUFWriter(tmp_path / "f.gguf", "test")
    writer.add_tensor("x", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with read(tmp_path / "f.gguf") as model:
        tensor = model.tensors["x"]
        assert (tensor.shape, tensor.cols, tensor.rows, tensor.matrices, tensor.weights) == ((6, 4), 6, 4, 1, 24)
        np.testing.assert_array_equal(model.data("x").view(np.float32), values)


def test_ggml_sees_the_same(tmp_path: Path) -> None:
    write_with_gguf(tmp_path / "theirs.gguf", METADATA, SPECS)
    agrees_with_ggml(read(tmp_path / "theirs.gguf"))


def test_what_only_ggml_writes_and_reads(tmp_path: Path) -> None:
    """Empty arrays and texts that are no UTF-8: the `gguf` package has neither."""
    odd = b"\xff\xfe\xc3(".decode("utf-8", "surrogateescape")
    metadata: Metadata = {
        "none": Value.array(ValueType.FLOAT32, []),
        "nobody": Value.array(ValueType.STRING, []),
        "odd": Value.string(odd),
        "odd ones": Value.array(ValueType.STRING, ["good", odd]),
        "last": Value.array(ValueType.UINT64, []),
    }
    write(tmp_path / "odd.gguf", metadata, ())
    with read(tmp_path / "odd.gguf") as model:
        assert model.metadata == metadata
        assert model.tensors == {}
        agrees_with_ggml(model)


def test_demo_model(bf16_gguf: Path) -> None:
    with read(bf16_gguf) as model:
        assert model.get("general.architecture") == "gemma3"
        agrees_with_gguf(model)
        agrees_with_ggml(model)


def test_get(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    with read(str(tmp_path / "m.gguf")) as model:
        assert model.path == tmp_path / "m.gguf"
        assert model.paths == (model.path,)
        assert model.get("u16") == 65_535
        assert model.get("yes") is True
        assert model.get("texts") == ["a", "", "▁der"]
        assert model.get("numbers").dtype == np.int32
        assert model.get("absent") is None
        assert model.get("absent", 7) == 7


def test_data_are_read_only_and_outlive_closing(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    with read(tmp_path / "m.gguf") as model:
        rows = model.data("mixed")
        with pytest.raises(ValueError, match="read-only"):
            rows[0, 0] = 1
        with pytest.raises(KeyError):
            model.data("absent")
    np.testing.assert_array_equal(rows, rows_of(SPECS[4]))
    with pytest.raises(ValueError, match="closed"):
        model.data("mixed")
    assert model.get("u16") == 65_535


def test_large_vocabulary_is_fast(tmp_path: Path) -> None:
    tokens = [f"▁token{number}" for number in range(262_144)]
    texts = b"".join(struct.pack("<Q", len(raw)) + raw for raw in map(str.encode, tokens))
    key = struct.pack("<Q6sIIQ", 6, b"tokens", 9, 8, len(tokens))
    (tmp_path / "v.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + texts)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        model = read(tmp_path / "v.gguf")
        seconds.append(time.process_time() - start)
    assert model.get("tokens") == tokens
    assert min(seconds) < 0.6  # 0.15 on an idle core


def agrees_with_ggml(model: GGUF) -> None:
    """Assert that ggml's parser sees the same model, which is not split."""
    seen = ggml.read(model.path)
    assert (seen.version, seen.alignment) == (model.version, model.alignment)
    assert [key.decode() for key in seen.metadata] == list(model.metadata)
    for (kind, item, raw), value in zip(seen.metadata.values(), model.metadata.values(), strict=True):
        assert (kind, item) == (value.type, value.item)
        if ValueType.STRING not in (kind, item):
            assert value.encoded.endswith(raw)
            continue
        texts = value.value if kind == ggml.ARRAY else [value.value]
        assert [text.encode("utf-8", "surrogateescape") for text in texts] == (raw if kind == ggml.ARRAY else [raw])
    assert list(seen.tensors) == list(model.tensors)
    for tensor in model.tensors.values():
        shape = (*tensor.shape, 1, 1, 1, 1)[:4]
        assert seen.tensors[tensor.name] == (tensor.type.id, shape, tensor.offset, tensor.nbytes)
