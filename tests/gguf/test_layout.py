"""The layout tells the size of a file to the byte, whoever writes it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpress.errors import GGUFError
from quantpress.formats import TYPES
from quantpress.gguf import Metadata, TensorSpec, Value, ValueType, layout
from tests.gguf.samples import METADATA, SPECS, write, write_with_gguf

LIMITS = {ValueType.UINT8: (0, 255), ValueType.INT16: (-(1 << 15), (1 << 15) - 1), ValueType.UINT64: (0, (1 << 64) - 1)}
THEIRS = [kind for kind in TYPES.values() if kind.id in gguf.GGML_QUANT_SIZES]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.sampled_from(list(LIMITS)).flatmap(
    lambda kind: st.builds(Value, st.just(kind), st.integers(*LIMITS[kind]))
)
arrays = st.one_of(
    st.builds(Value.array, st.just(ValueType.STRING), st.lists(texts, min_size=1, max_size=5)),
    st.builds(Value.array, st.just(ValueType.FLOAT32), st.lists(st.floats(width=32), min_size=1, max_size=5)),
    st.builds(Value.array, st.just(ValueType.BOOL), st.lists(st.booleans(), min_size=1, max_size=5)),
)
values = st.one_of(numbers, st.builds(Value.string, texts), st.builds(Value.bool_, st.booleans()), arrays)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)


@st.composite
def specs(draw: st.DrawFn) -> tuple[TensorSpec, ...]:
    found = []
    for name in draw(st.lists(names, max_size=5, unique=True)):
        kind = draw(st.sampled_from(THEIRS))
        rest = draw(st.lists(st.integers(1, 4), max_size=3))
        found.append(TensorSpec(name, (kind.block * draw(st.integers(1, 3)), *rest), kind))
    return tuple(found)


@given(
    metadata=st.dictionaries(names, values, max_size=6),
    tensors=specs(),
    alignment=st.one_of(st.none(), st.integers(0, 12).map(lambda power: 1 << power)),
)
@settings(max_examples=60, deadline=2000)
def test_every_byte_as_gguf_writes_it(metadata: Metadata, tensors: tuple[TensorSpec, ...], alignment: Any) -> None:
    metadata = {"general.architecture": Value.string("x"), **metadata}
    if alignment is not None:
        metadata["general.alignment"] = Value.u32(alignment)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        write_with_gguf(theirs, metadata, tensors)
        write(ours, metadata, tensors)
        assert ours.read_bytes() == theirs.read_bytes()
        found = layout(metadata, tensors)
        assert found.file_bytes == theirs.stat().st_size
        assert list(found.offsets.values()) == [t.data_offset for t in gguf.GGUFReader(theirs).tensors]


def test_header_and_offsets(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    found = layout(METADATA, SPECS)
    assert found.file_bytes == (tmp_path / "m.gguf").stat().st_size
    assert found.header_bytes == found.offsets["scalar"] == gguf.GGUFReader(tmp_path / "m.gguf").data_offset
    assert found.offsets["odd"] - found.offsets["scalar"] == 32


def test_without_tensors(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", METADATA, ())
    write_with_gguf(tmp_path / "theirs.gguf", METADATA, ())
    found = layout(METADATA, ())
    assert found.file_bytes == found.header_bytes == (tmp_path / "theirs.gguf").stat().st_size
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_sizes_of_any_magnitude() -> None:
    """A tensor of 2^52 weights: sizes are never rounded through a float."""
    spec = TensorSpec("huge", (1 << 20, (1 << 32) + 1), TYPES["F32"])
    found = layout({}, [spec])
    assert found.file_bytes - found.header_bytes == 4 * (1 << 20) * ((1 << 32) + 1)


F32, Q4_K = TYPES["F32"], TYPES["Q4_K"]


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"": Value.u32(1)}, (), "key: expected 1 to 65,535 bytes"),
        ({"k" * 65_536: Value.u32(1)}, (), "key: expected 1 to 65,535 bytes"),
        ({"a\0": Value.u32(1)}, (), "key: expected text without a zero byte"),
        ({"\udcff": Value.u32(1)}, (), "key: expected UTF-8"),
        ({"k": Value.string("\ud800")}, (), "key 'k': expected text that UTF-8 can hold"),
        ({"general.alignment": Value.u32(48)}, (), "general.alignment: expected a power of two"),
        ({}, (TensorSpec("t" * 64, (1,), F32),), "name: expected 1 to 63 bytes"),
        ({}, (TensorSpec("t\ud800", (1,), F32),), "name: expected UTF-8"),
        ({}, (TensorSpec("t", (1, 1, 1, 1, 1), F32),), "number of dimensions: expected at most 4"),
        ({}, (TensorSpec("t", (4, 0), F32),), "dimension 1: expected 1 or more, found 0"),
        ({}, (TensorSpec("t", (-4,), F32),), "dimension 0: expected 1 or more, found -4"),
        ({}, (TensorSpec("t", (128,), Q4_K),), "dimension 0: expected a multiple of 256"),
        ({}, (TensorSpec("t", (1 << 40, 1 << 40), F32),), r"shape: expected fewer than 2\^63 weights"),
        ({}, (TensorSpec("t", (1,), F32), TensorSpec("t", (2,), F32)), "tensor 't': expected unique names"),
    ],
)
def test_what_a_file_cannot_hold(metadata: Metadata, tensors: tuple[TensorSpec, ...], message: str) -> None:
    """What the reader refuses is refused before it is written."""
    with pytest.raises(GGUFError, match=message):
        layout(metadata, tensors)
