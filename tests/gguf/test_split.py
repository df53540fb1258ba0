"""Split files: parts that the `gguf` package and ggml read, and parts that the `gguf` package wrote."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from quantpress.errors import PlanError
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, layout, read, split_plan
from tests.gguf import ggml
from tests.gguf.samples import METADATA, SPECS, rows_of, write, write_with_gguf

EQUAL = tuple(TensorSpec(f"t{number}", (256, 10), TYPES["F32"]) for number in range(5))  # 10,240 bytes each


def names(model: str, count: int) -> list[str]:
    return [f"{model}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


@pytest.mark.parametrize("alignment", [None, 4096])
def test_parts_of_ours(tmp_path: Path, alignment: int | None) -> None:
    metadata = dict(METADATA) if alignment is None else {**METADATA, "general.alignment": Value.u32(alignment)}
    writer = write(tmp_path / "m.gguf", metadata, EQUAL, split_bytes=30_000)
    assert [path.name for path in writer.paths] == names("m", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == names("m", 3)
    assert writer.sizes == tuple(path.stat().st_size for path in writer.paths)
    for number, path in enumerate(writer.paths):
        reader = gguf.GGUFReader(path)
        fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        assert list(fields)[-3:] == ["split.no", "split.tensors.count", "split.count"]  # the order of llama-gguf-split
        split = {name: (fields[name].types, fields[name].contents()) for name in fields if name.startswith("split.")}
        assert split == {
            "split.no": ([gguf.GGUFValueType.UINT16], number),
            "split.tensors.count": ([gguf.GGUFValueType.INT32], 5),
            "split.count": ([gguf.GGUFValueType.UINT16], 3),
        }
        others = fields.keys() - split.keys()
        assert others == (metadata.keys() if number == 0 else metadata.keys() & {"general.alignment"})
        assert [tensor.name for tensor in reader.tensors] == [f"t{index}" for index in range(5) if index // 2 == number]
        for tensor in reader.tensors:
            spec = EQUAL[int(tensor.name[1:])]
            assert tensor.data.tobytes() == rows_of(spec).tobytes()
        assert list(ggml.read(path).tensors) == [tensor.name for tensor in reader.tensors]
    with read(writer.paths[0]) as model:
        assert model.paths == writer.paths
        assert model.metadata == metadata
        assert model.split == {
            "split.no": Value.u16(0),
            "split.tensors.count": Value.i32(5),
            "split.count": Value.u16(3),
        }
        assert [tensor.part for tensor in model.tensors.values()] == [0, 0, 1, 1, 2]
        for spec in EQUAL:
            np.testing.assert_array_equal(model.data(spec.name), rows_of(spec))


@pytest.mark.parametrize("options", [{"split_max_tensors": 2}, {"split_max_size": 2000}, {"small_first_shard": True}])
def test_parts_of_the_gguf_package(tmp_path: Path, options: dict[str, int]) -> None:
    write_with_gguf(tmp_path / "theirs.gguf", METADATA, SPECS, **options)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == names("theirs", len(paths))
    assert len(paths) > 1
    with read(paths[0]) as model:
        assert model.paths == tuple(paths)
        assert model.metadata == METADATA
        assert list(model.tensors) == [spec.name for spec in SPECS]
        for spec in SPECS:
            np.testing.assert_array_equal(model.data(spec.name), rows_of(spec))


def test_limit_counts_every_byte() -> None:
    """With one byte less than two tensors and a header need, a part takes one."""
    whole = split_plan(METADATA, EQUAL)
    assert len(whole) == 1
    assert whole[0].layout == layout(METADATA, EQUAL)
    assert [len(part.tensors) for part in split_plan(METADATA, EQUAL, whole[0].layout.file_bytes)] == [5]
    parts = split_plan(METADATA, EQUAL, whole[0].layout.file_bytes - 1)
    assert [len(part.tensors) for part in parts] == [4, 1]
    second = split_plan({}, EQUAL, 22_000)[1]
    assert len(second.tensors) == 2
    exact = second.layout.file_bytes
    assert [len(part.tensors) for part in split_plan({}, EQUAL, exact)] == [2, 2, 1]
    assert [len(part.tensors) for part in split_plan({}, EQUAL, exact - 1)] == [1, 1, 1, 1, 1]
    for limit in (exact - 1, exact, 33_333):
        assert all(part.layout.file_bytes <= limit for part in split_plan({}, EQUAL, limit))


def test_metadata_weigh_on_the_first_part_only() -> None:
    metadata = {**METADATA, "blob": Value.string("x" * 10_000)}
    assert [len(part.tensors) for part in split_plan(metadata, EQUAL, 33_000)] == [2, 3]


def test_file_that_fits_is_not_split(tmp_path: Path) -> None:
    writer = write(tmp_path / "m.gguf", METADATA, EQUAL, split_bytes=layout(METADATA, EQUAL).file_bytes)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert writer.paths == (tmp_path / "m.gguf",)
    with read(writer.paths[0]) as model:
        assert model.split == {}


def test_split_keys_of_the_source_are_replaced() -> None:
    old = {"split.count": Value.u16(9), "split.no": Value.u16(3)}
    (part,) = split_plan({**METADATA, **old}, EQUAL)
    assert part.metadata == METADATA
    first, *_ = split_plan({**old, **METADATA}, EQUAL, 30_000)
    assert first.metadata["split.count"] == Value.u16(3)
    assert first.metadata["split.no"] == Value.u16(0)


def test_tensor_larger_than_the_limit() -> None:
    with pytest.raises(PlanError, match=r"split size: expected 10,\d\d\d bytes or more, found 10,000.*Tensor t0 is"):
        split_plan({}, EQUAL, 10_000)


def test_single_part_with_split_keys(tmp_path: Path) -> None:
    """As `llama-gguf-split --merge` leaves it: a count of 0."""
    metadata = {**METADATA, "split.no": Value.u16(0), "split.count": Value.u16(0), "split.tensors.count": Value.i32(6)}
    write_with_gguf(tmp_path / "merged.gguf", metadata, SPECS)
    with read(tmp_path / "merged.gguf") as model:
        assert model.metadata == METADATA
        assert len(model.split) == 3
