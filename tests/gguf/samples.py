"""Metadata and tensors of every kind, and the same in the `gguf` package's terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quantpress.formats import TYPES
from quantpress.gguf import GGUF, Metadata, TensorSpec, Value, ValueType, Writer

METADATA: Metadata = {
    "general.architecture": Value.string("test"),
    "u8": Value(ValueType.UINT8, 255),
    "i8": Value(ValueType.INT8, -128),
    "u16": Value.u16(65_535),
    "i16": Value(ValueType.INT16, -32_768),
    "u32": Value.u32(4_294_967_295),
    "i32": Value.i32(-2_147_483_648),
    "u64": Value.u64((1 << 64) - 1),
    "i64": Value(ValueType.INT64, -(1 << 63)),
    "f32": Value.f32(1e-6),
    "f64": Value(ValueType.FLOAT64, 1e-300),
    "yes": Value.bool_(True),
    "no": Value.bool_(False),
    "text": Value.string("Grüße ▁\n"),
    "numbers": Value.array(ValueType.INT32, [-1, 0, 1]),
    "bytes": Value.array(ValueType.UINT8, [0, 255]),
    "scores": Value.array(ValueType.FLOAT32, [0.5, -1e-3]),
    "bools": Value.array(ValueType.BOOL, [True, False, True]),
    "texts": Value.array(ValueType.STRING, ["a", "", "▁der"]),
}
SPECS = (
    TensorSpec("scalar", (), TYPES["F32"]),
    TensorSpec("odd", (7,), TYPES["F16"]),
    TensorSpec("experts", (64, 3, 4), TYPES["Q8_0"]),
    TensorSpec("deep", (2, 3, 1, 5), TYPES["F32"]),
    TensorSpec("mixed", (512, 5), TYPES["Q4_K"]),
    TensorSpec("last", (32, 1), TYPES["Q4_0"]),
)


def rows_of(spec: TensorSpec, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Arbitrary encoded rows, uint8 [rows, row_bytes]; small positive, so that floats among them are no NaN."""
    generator = np.random.default_rng([seed, *spec.name.encode()])
    return generator.integers(1, 64, (spec.rows, spec.row_bytes), np.uint8)


def write(
    path: Path,
    metadata: Metadata = METADATA,
    specs: tuple[TensorSpec, ...] = SPECS,
    split_bytes: int | None = None,
) -> Writer:
    with Writer(path, metadata, specs, split_bytes) as writer:
        for spec in specs:
            writer.write(spec.name, 0, rows_of(spec))
    return writer


def write_with_gguf(path: Path, metadata: Metadata, specs: tuple[TensorSpec, ...], **options: Any) -> None:
    """The same through the `gguf` package's writer; `general.architecture` must be the first key."""
    architecture, *others = metadata.items()
    writer = gguf.GGUFWriter(path, architecture[1].value, **options)
    for key, value in others:
        plain = value.value.tolist() if isinstance(value.value, np.ndarray) else value.value
        item = None if value.item is None else gguf.GGUFValueType(value.item)
        writer.add_key_value(key, plain, gguf.GGUFValueType(value.type), item)
        if key == "general.alignment":
            writer.data_alignment = value.value
    for spec in specs:
        kind = gguf.GGMLQuantizationType(spec.type.id)
        data = rows_of(spec).reshape(*reversed(spec.shape[1:]), spec.row_bytes)
        writer.add_tensor_info(spec.name, tuple(reversed(spec.shape)), np.dtype(np.float32), data.nbytes, kind)
        writer.tensors[-1][spec.name].tensor = data
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def agrees_with_gguf(model: GGUF) -> None:
    """Assert that the `gguf` package's reader sees the same model, which is not split."""
    reader = gguf.GGUFReader(model.path)
    fields = {name: found for name, found in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(fields) == list(model.metadata)
    for key, value in model.metadata.items():
        types = [value.type] if value.item is None else [value.type, value.item]
        plain = value.value.tolist() if isinstance(value.value, np.ndarray) else value.value
        assert fields[key].types == types
        assert fields[key].contents() == plain, key
    assert reader.alignment == model.alignment
    assert [tensor.name for tensor in reader.tensors] == list(model.tensors)
    for theirs in reader.tensors:
        ours = model.tensors[theirs.name]
        assert (theirs.tensor_type, tuple(theirs.shape.tolist())) == (ours.type.id, ours.shape)
        assert (theirs.data_offset, theirs.n_bytes, theirs.n_elements) == (ours.offset, ours.nbytes, ours.weights)
        assert theirs.data.tobytes() == model.data(theirs.name).tobytes()
