"""One test a corruption of an importance matrix, in both formats; and whatever bytes there are, only our errors."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpress import gguf
from quantpress.errors import GGUFError, ImatrixError
from quantpress.imatrix import read
from tests.arrays import write_arrays

NAME = "blk.0.attn_k.weight"
KEYS: gguf.Metadata = {
    "general.type": gguf.Value.string("imatrix"),
    "imatrix.datasets": gguf.Value.array(gguf.ValueType.STRING, ["a.txt"]),
    "imatrix.chunk_count": gguf.Value.u32(3),
    "imatrix.chunk_size": gguf.Value.u32(512),
}
ENTRY = {f"{NAME}.in_sum2": np.ones((2, 4), np.float32), f"{NAME}.counts": np.ones((2, 1), np.float32)}


def with_values(name: str, values: Any) -> dict[str, np.ndarray[Any, Any]]:
    return ENTRY | {f"{NAME}.{name}": np.array(values, np.float32)}


def test_the_sound_one(tmp_path: Path) -> None:
    found = read(write_arrays(tmp_path / "i.gguf", KEYS, ENTRY))
    assert found.names == (NAME,)
    assert found.importance(NAME).shape == (2, 4)


@pytest.mark.parametrize("key", ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"])
def test_without_a_key(tmp_path: Path, key: str) -> None:
    keys = {name: value for name, value in KEYS.items() if name != key}
    with pytest.raises(ImatrixError, match=rf"i\.gguf: {key}: expected .*, found|i\.gguf: {key}: expected"):
        read(write_arrays(tmp_path / "i.gguf", keys, ENTRY))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.type", gguf.Value.string("model")),
        ("imatrix.datasets", gguf.Value.string("a.txt")),
        ("imatrix.datasets", gguf.Value.array(gguf.ValueType.UINT32, [1])),
        ("imatrix.chunk_count", gguf.Value.i32(-1)),
        ("imatrix.chunk_count", gguf.Value.u64(1 << 40)),
        ("imatrix.chunk_size", gguf.Value.bool_(True)),
        ("imatrix.chunk_size", gguf.Value.f32(512.0)),
    ],
)
def test_a_key_of_another_kind(tmp_path: Path, key: str, value: gguf.Value) -> None:
    with pytest.raises(ImatrixError, match=rf"i\.gguf: {key}: expected"):
        read(write_arrays(tmp_path / "i.gguf", KEYS | {key: value}, ENTRY))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("name", ["in_sum2", "counts"])
def test_values_that_no_sum_of_squares_has(tmp_path: Path, name: str, odd: float) -> None:
    values = ENTRY[f"{NAME}.{name}"].copy()
    values[1, 0] = odd
    with pytest.raises(ImatrixError, match=rf"tensor blk\.0\.attn_k\.weight\.{name}: expected finite values"):
        read(write_arrays(tmp_path / "i.gguf", KEYS, with_values(name, values)))


def test_sums_or_counts_alone(tmp_path: Path) -> None:
    for name in ENTRY:
        rest = {key: values for key, values in ENTRY.items() if key != name}
        with pytest.raises(ImatrixError, match=f"tensor {name}: expected F32, found none"):
            read(write_arrays(tmp_path / "i.gguf", KEYS, rest))


def test_counts_that_do_not_divide_the_sums(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"attn_k\.weight: expected a count for each of the 8 sums"):
        read(write_arrays(tmp_path / "i.gguf", KEYS, with_values("counts", [[1]] * 3)))


def test_a_count_that_no_run_reaches(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match=r"counts: expected at most 2\^53"):
        read(write_arrays(tmp_path / "i.gguf", KEYS, with_values("counts", [[1e30], [1]])))


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_another_type_of_values(tmp_path: Path, dtype: type) -> None:
    changed = ENTRY | {f"{NAME}.counts": ENTRY[f"{NAME}.counts"].astype(dtype)}
    with pytest.raises(ImatrixError, match=r"counts: expected F32, found (F64|I32)"):
        read(write_arrays(tmp_path / "i.gguf", KEYS, changed))


def test_a_model_is_no_imatrix(tmp_path: Path, f32_gguf: Path) -> None:
    with pytest.raises(ImatrixError, match=r"general\.type: expected imatrix, found model"):
        read(f32_gguf)
    keys = {key: value for key, value in KEYS.items() if key != "general.type"}
    with pytest.raises(ImatrixError, match=r"expected a name that ends in \.in_sum2 or \.counts, found blk\.0\.x"):
        read(write_arrays(tmp_path / "i.gguf", keys, ENTRY | {"blk.0.x": np.ones((1, 1), np.float32)}))


def test_no_entries(tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match="entries: expected at least one"):
        read(write_arrays(tmp_path / "i.gguf", KEYS, {}))


def test_truncated(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "i.gguf", KEYS, ENTRY)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GGUFError):
        read(path)


def test_no_regular_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(ImatrixError, match="expected a re"):
            read(path)


def test_a_dataset_that_is_no_utf8_can_still_be_printed(tmp_path: Path) -> None:
    keys = KEYS | {"imatrix.datasets": gguf.Value.array(gguf.ValueType.STRING, ["a\udcff.txt"])}
    assert read(write_arrays(tmp_path / "i.gguf", keys, ENTRY)).datasets == ("a\ufffd.txt",)


def entry(name: bytes = b"a", chunks: int = 3, values: tuple[float, ...] = (1.0, 2.0)) -> bytes:
    head = struct.pack(f"<i{len(name)}sii", len(name), name, chunks, len(values))
    return head + struct.pack(f"<{len(values)}f", *values)


def legacy(*entries: bytes, count: int | None = None, trailer: bytes = b"") -> bytes:
    return struct.pack("<i", len(entries) if count is None else count) + b"".join(entries) + trailer


def trailer(chunks: int = 3, name: bytes = b"a.txt", length: int | None = None) -> bytes:
    return struct.pack("<ii", chunks, len(name) if length is None else length) + name


SOUND = {
    "with all": legacy(entry(), entry(b"b"), trailer=trailer()),
    "without the end": legacy(entry()),
    "with chunks only": legacy(entry(), trailer=struct.pack("<i", 7)),
    "with an empty name": legacy(entry(), trailer=trailer(name=b"")),
}


@pytest.mark.parametrize("case", SOUND)
def test_sound_legacy_files(tmp_path: Path, case: str) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(SOUND[case])
    assert np.array_equal(read(path).importance("a"), np.array([[1, 2]], np.float32) / 3)


NEITHER = "neither a GGUF nor a legacy imatrix"

BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", f"{NEITHER} (it would begin with 0 entries)"),
    "three bytes": (b"\1\0\0", NEITHER),
    "no entries": (legacy(count=0), f"{NEITHER} (it would begin with 0 entries)"),
    "negative entries": (legacy(entry(), count=-1), f"{NEITHER} (it would begin with -1 entries)"),
    "more entries than bytes": (legacy(entry(), count=2**31 - 1), NEITHER),
    "an entry less": (
        legacy(entry(values=(1.0,) * 9), count=2),
        "entry 2: length of the name: expected 4 bytes",
    ),
    "name without end": (legacy(struct.pack("<i", 60) + b"a" * 20), "entry 1: name: expected 60 bytes, found 20 left"),
    "name of 2 GB": (legacy(struct.pack("<i", 2**31 - 1) + b"a" * 20), "length of the name: expected 1 to 63"),
    "no name": (legacy(entry(b"") + bytes(8)), "length of the name: expected 1 to 63, found 0"),
    "name is no UTF-8": (legacy(entry(b"\xff")), "entry 1: name: expected UTF-8"),
    "named twice": (legacy(entry(), entry()), "a: expected one entry, found two"),
    "negative chunks": (legacy(entry(chunks=-1)), "a: chunks: expected 0 to"),
    "no values": (legacy(entry(values=()) + bytes(8)), "a: number of values: expected 1 to"),
    "values of 8 GB": (
        legacy(struct.pack("<i1sii", 1, b"a", 1, 2**31 - 1) + bytes(16)),
        "a: number of values: expected 1",
    ),
    "NaN": (legacy(entry(values=(1.0, np.nan))), "a: expected finite values that are not negative, found nan"),
    "infinite": (legacy(entry(values=(np.inf,))), "a: expected finite values that are not negative, found inf"),
    "negative": (legacy(entry(values=(-1.0,))), "a: expected finite values that are not negative, found -1"),
    "dataset beyond the end": (
        legacy(entry(), trailer=trailer(length=99)),
        "dataset's name: expected 0 to 5, found 99",
    ),
    "dataset is no UTF-8": (legacy(entry(), trailer=trailer(name=b"\xff")), "dataset's name: expected UTF-8"),
    "half a number": (legacy(entry(), trailer=b"\0\0"), "number of chunks: expected 4 bytes, found 2"),
    "more after the end": (
        legacy(entry(), trailer=trailer() + b"more"),
        "end of the file: expected nothing more, found 4",
    ),
    "text": (b"This is no importance matrix at all.", f"file: expected an importance matrix, found {NEITHER}"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_legacy_files(tmp_path: Path, case: str) -> None:
    data, message = BROKEN[case]
    path = tmp_path / "i.dat"
    path.write_bytes(data)
    with pytest.raises(ImatrixError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def damage(sound: bytes, at: int, new: bytes, cut: int) -> bytes:
    at %= len(sound)
    return (sound[:at] + new + sound[at + len(new) :])[: len(sound) - cut % len(sound)]


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0), new=st.binary(max_size=8), cut=st.integers(0) | st.just(0), kind=st.sampled_from("gd"))
def test_any_damage_is_either_harmless_or_our_error(folder: Path, at: int, new: bytes, cut: int, kind: str) -> None:
    path = folder / "damaged"
    sound = SOUND["with all"] if kind == "d" else sound_gguf(folder)
    path.write_bytes(damage(sound, at, new, cut))
    try:
        found = read(path)
    except (ImatrixError, GGUFError):
        return
    for name in found.names:
        assert np.isfinite(found.importance(name)).all()


def sound_gguf(folder: Path) -> bytes:
    path = folder / "sound.gguf"
    if not path.exists():
        write_arrays(path, KEYS, ENTRY)
    return path.read_bytes()
