"""Reading: whole files, by us and by the gguf package, and one test a corruption."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from quantpress import gguf, moments
from quantpress.errors import GGUFError, ImatrixError
from quantpress.formats import TYPES
from quantpress.strips import packed_size
from tests.arrays import write_arrays

A, B, EXPERTS = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up_exps.weight"
KEYS: gguf.Metadata = {
    "general.type": gguf.Value.string("quantpress.moments"),
    "moments.datasets": gguf.Value.array(gguf.ValueType.STRING, ["a.txt"]),
    "moments.chunk_count": gguf.Value.u32(3),
    "moments.chunk_size": gguf.Value.u32(512),
    "moments.weights": gguf.Value.array(gguf.ValueType.STRING, [B, A, EXPERTS]),
    "moments.inputs": gguf.Value.array(gguf.ValueType.STRING, [A, A, EXPERTS]),
}
X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
Data = dict[str, np.ndarray[Any, Any]]
DATA: Data = {
    f"{A}.moments": (X.T @ X).reshape(1, -1),
    f"{A}.blocks": np.array([[4]]),
    f"{A}.counts": np.array([[20]]),
    f"{A}.sample": X[:3],
    f"{A}.sampled": np.array([[3]]),
    f"{EXPERTS}.moments": np.stack([np.eye(4), np.zeros((4, 4)), np.eye(4)]).reshape(3, -1).astype(np.float32),
    f"{EXPERTS}.blocks": np.array([[4]]),
    f"{EXPERTS}.counts": np.array([[2, 0, 4]]),
    f"{EXPERTS}.sample": X[:5],
    f"{EXPERTS}.sampled": np.array([[2, 0, 3]]),
}
WEIGHT = gguf.TensorSpec(B, (4, 9), TYPES["F32"])
STACK = gguf.TensorSpec(EXPERTS, (4, 9, 3), TYPES["F32"])


def write(path: Path, keys: gguf.Metadata = KEYS, data: Data = DATA) -> Path:
    return write_arrays(path, keys, data)


def without(tensor: str) -> Data:
    return {name: values for name, values in DATA.items() if name != tensor}


def test_the_sound_one(tmp_path: Path) -> None:
    with moments.read(write(tmp_path / "m.gguf")) as found:
        assert found.names == (B, A, EXPERTS)
        assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt",), 3, 512)
        one = found.of(WEIGHT, 0)
        assert one is not None
        np.testing.assert_allclose(one.blocks[0], X.T @ X / 20, rtol=1e-6)
        assert np.array_equal(one.blocks[0], one.blocks[0].T)
        assert np.array_equal(one.sample, X[:3])
        last = found.of(STACK, 2)
        assert last is not None
        assert np.array_equal(last.blocks[0], np.eye(4, dtype=np.float32) / 4)
        assert np.array_equal(last.sample, X[2:5])
        assert found.of(STACK, 1) is None  # no token went that way


def test_what_is_not_covered(tmp_path: Path) -> None:
    with moments.read(write(tmp_path / "m.gguf")) as found:
        assert found.covers(WEIGHT)
        for other in (("blk.9.x.weight", (4, 9)), (B, (5, 9)), (B, (4, 9, 2)), (EXPERTS, (4, 9))):
            spec = gguf.TensorSpec(*other, TYPES["F32"])
            assert not found.covers(spec)
            assert found.of(spec, 0) is None
        with pytest.raises(IndexError):
            found.of(WEIGHT, 1)


def test_many_threads_at_once(collected: Path, moe: Path) -> None:
    with gguf.read(moe) as model, moments.read(moments.beside(collected)) as found, ThreadPoolExecutor(8) as pool:
        wanted = [(model.tensors[n], m) for n in found.names for m in range(model.tensors[n].matrices)] * 4
        results = list(pool.map(lambda pair: found.of(*pair), wanted))
        for (tensor, matrix), one in zip(wanted, results, strict=True):
            again = found.of(tensor, matrix)
            assert one is not None
            assert again is not None
            assert np.array_equal(one.blocks[0], again.blocks[0])


def test_the_gguf_package_reads_it(collected: Path, moe: Path) -> None:
    path = moments.beside(collected)
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    with gguf.read(moe) as model, moments.read(path) as found:
        for name, entry in found.entries.items():
            assert theirs[f"{name}.moments"].tensor_type.name == "F32"
            sums = np.asarray(theirs[f"{name}.moments"].data).reshape(entry.matrices, packed_size(entry.blocks))
            assert np.asarray(theirs[f"{name}.counts"].data).reshape(-1).tolist() == entry.counts.tolist()
            one = found.of(model.tensors[name], 0)
            assert one is not None
            square = sums[0].reshape(entry.cols, entry.cols)  # narrower than a strip
            np.testing.assert_allclose(np.triu(square), np.triu(one.blocks[0]) * one.tokens, rtol=1e-6)


@pytest.mark.parametrize("key", [key for key in KEYS if key != "general.type"])
def test_without_a_key(tmp_path: Path, key: str) -> None:
    keys = {name: value for name, value in KEYS.items() if name != key}
    with pytest.raises(ImatrixError, match=rf"m\.gguf: {key}: expected"):
        moments.read(write(tmp_path / "m.gguf", keys))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.type", gguf.Value.string("imatrix")),
        ("moments.chunk_count", gguf.Value.i32(-1)),
        ("moments.weights", gguf.Value.array(gguf.ValueType.STRING, [A, A, EXPERTS])),
        ("moments.weights", gguf.Value.array(gguf.ValueType.STRING, [A, EXPERTS])),
        ("moments.inputs", gguf.Value.array(gguf.ValueType.UINT32, [1, 2, 3])),
    ],
)
def test_a_key_of_another_kind(tmp_path: Path, key: str, value: gguf.Value) -> None:
    with pytest.raises(ImatrixError, match=rf"m\.gguf: {key}: expected"):
        moments.read(write(tmp_path / "m.gguf", KEYS | {key: value}))


@pytest.mark.parametrize("tensor", sorted(DATA))
def test_without_a_tensor(tmp_path: Path, tensor: str) -> None:
    with pytest.raises(ImatrixError, match=rf"tensor {tensor}: expected"):
        moments.read(write(tmp_path / "m.gguf", data=without(tensor)))


@pytest.mark.parametrize(
    ("tensor", "values"),
    [
        (f"{A}.moments", np.zeros((1, 15), np.float32)),
        (f"{A}.moments", np.zeros((1, 16), np.float64)),
        (f"{EXPERTS}.moments", np.zeros((2, 16), np.float32)),
        (f"{A}.blocks", np.array([[0]])),
        (f"{A}.blocks", np.array([[2, 2]])),
        (f"{A}.blocks", np.array([[1 << 62]])),
        (f"{A}.blocks", np.array([[-4, 8]])),
        (f"{A}.counts", np.array([[-1]])),
        (f"{A}.counts", np.array([[1, 1]])),
        (f"{A}.sampled", np.array([[4]])),
        (f"{A}.sample", np.zeros((3, 5), np.float32)),
        (f"{EXPERTS}.sampled", np.array([[6, 0, -1]])),
        ("blk.7.x.weight.moments", np.zeros((1, 16), np.float32)),
        (f"{A}.more", np.zeros((1, 16), np.float32)),
        (A, np.zeros((1, 16), np.float32)),
    ],
)
def test_a_header_that_contradicts_itself(tmp_path: Path, tensor: str, values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImatrixError, match=r"m\.gguf: tensor blk\.\S+ ?.*: expected"):
        moments.read(write(tmp_path / "m.gguf", data=DATA | {tensor: values}))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", ["moments", "sample"])
def test_values_that_are_not_finite(tmp_path: Path, suffix: str, odd: float) -> None:
    values = DATA[f"{EXPERTS}.{suffix}"].copy()
    values[-1, 1] = odd
    with moments.read(write(tmp_path / "m.gguf", data=DATA | {f"{EXPERTS}.{suffix}": values})) as found:
        assert found.of(STACK, 0) is not None
        with pytest.raises(ImatrixError, match=rf"{EXPERTS}\.{suffix}: matrix 2: expected finite values"):
            found.of(STACK, 2)


def test_a_negative_diagonal(tmp_path: Path) -> None:
    values = DATA[f"{A}.moments"].copy()
    values[0, 5] = -1
    expected = r"matrix 0: expected a diagonal that is not negative, found -1\.0"
    path = write(tmp_path / "m.gguf", data=DATA | {f"{A}.moments": values})
    with moments.read(path) as found, pytest.raises(ImatrixError, match=expected):
        found.of(WEIGHT, 0)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    whole = path.read_bytes()
    for size in (10, 300, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(GGUFError):
            moments.read(path)


def test_where_they_are() -> None:
    assert moments.beside("a/I.gguf") == Path("a/I.moments.gguf")
    assert moments.beside("imatrix") == Path("imatrix.moments.gguf")
