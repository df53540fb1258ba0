"""Reading, writing, merging: against llama-imatrix's files and llama-quantize's arithmetic."""

from pathlib import Path

import numpy as np
import pytest

from quantpress.errors import ImatrixError, OutputError
from quantpress.imatrix import Imatrix, merge, read, write


def make(name: str, sums: list[list[float]], counts: list[int], **more: object) -> Imatrix:
    return Imatrix({name: np.array(sums, np.float32)}, {name: np.array(counts)}, **more)  # type: ignore[arg-type]


def test_writes_what_it_reads(reference: Path, tmp_path: Path) -> None:
    for name in ("demo.gguf", "moe.gguf"):
        assert write(read(reference / name), tmp_path / name).read_bytes() == (reference / name).read_bytes()


def test_legacy_holds_the_same_means(reference: Path) -> None:
    new, old = read(reference / "demo.gguf"), read(reference / "demo.dat")
    assert old.legacy
    assert old.names == new.names
    assert old.datasets == new.datasets == ("prose.txt",)
    assert (old.chunk_count, old.chunk_size, new.chunk_size) == (14, 0, 512)
    for name in new.names:
        np.testing.assert_allclose(old.importance(name), new.importance(name), rtol=1e-6)


def test_info(reference: Path) -> None:
    info = read(reference / "moe.gguf").info
    assert (info.file, info.dataset, info.entries, info.chunks) == ("moe.gguf", "prose.txt", 17, 16)


def test_importance_is_sum_by_count_and_one_without_tokens() -> None:
    found = make("a", [[3, 1], [5, 7], [0, 0]], [3, 0, 7]).importance("a")
    expected = np.array([[np.float32(3) / np.float32(3), np.float32(1) / np.float32(3)], [1, 1], [0, 0]], np.float32)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_legacy_importance_without_chunks_is_the_sum_itself() -> None:
    assert np.array_equal(make("a", [[3, 1]], [0], legacy=True).importance("a"), np.array([[3, 1]], np.float32))


def test_importance_for_as_many_matrices_as_the_weight_has() -> None:
    one = make("a", [[2, 4, 6, 8]], [2])
    assert np.array_equal(one.importance("a", 2), np.array([[1, 2], [3, 4]], np.float32))
    with pytest.raises(ImatrixError, match="a: expected values for 3 matrices, found 4"):
        one.importance("a", 3)
    with pytest.raises(ImatrixError, match="b: expected an entry, found none"):
        one.importance("b")


def test_merge_is_llama_imatrixs(reference: Path, tmp_path: Path) -> None:
    files = [reference / "demo.gguf", reference / "demo.dat"]
    ours, theirs = read(merge(files, tmp_path / "merged.gguf")), read(reference / "merged.gguf")
    assert (ours.datasets, ours.chunk_count, ours.chunk_size) == (theirs.datasets, theirs.chunk_count, 512)
    for name in theirs.names:
        assert np.array_equal(ours.counts[name], theirs.counts[name])
        np.testing.assert_allclose(ours.sums[name], theirs.sums[name], rtol=1e-6)


def test_merge_keeps_entries_of_one_side(tmp_path: Path) -> None:
    a = write(make("a", [[1, 2]], [512], chunk_size=512, datasets=("x",)), tmp_path / "a")
    b = write(make("b", [[4, 8]], [1024], chunk_size=512, datasets=("y",)), tmp_path / "b")
    found = read(merge([a, b], tmp_path / "c"))
    assert found.names == ("a", "b")
    assert found.datasets == ("x", "y")
    assert found.chunk_count == 2  # as many as the most that any entry saw
    assert np.array_equal(found.importance("b"), read(b).importance("b"))


def test_merge_spreads_one_count_over_the_experts(tmp_path: Path) -> None:
    a = write(make("a", [[1, 2, 3, 4]], [10], chunk_size=2), tmp_path / "a")
    b = write(make("a", [[1, 1], [1, 1]], [1, 3], chunk_size=2), tmp_path / "b")
    for order in ([a, b], [b, a]):
        found = read(merge(order, tmp_path / "c"))
        assert np.array_equal(found.sums["a"], [[2, 3], [4, 5]])
        assert np.array_equal(found.counts["a"], [11, 13])


@pytest.mark.parametrize(("sums", "counts"), [([[1, 2, 3]], [1]), ([[1, 1], [1, 1], [1, 1], [1, 1]], [1, 1, 1, 1])])
def test_merge_refuses_other_shapes(sums: list[list[float]], counts: list[int], tmp_path: Path) -> None:
    a = write(make("w", [[1, 2], [3, 4], [5, 6]], [1, 1, 1]), tmp_path / "a.gguf")
    b = write(make("w", sums, counts), tmp_path / "b.gguf")
    with pytest.raises(ImatrixError, match=r"b\.gguf: w: expected shape \(3, 2\), found shape .*a\.gguf"):
        merge([a, b], tmp_path / "c.gguf")
    assert not (tmp_path / "c.gguf").exists()


def test_merge_refuses_other_layers(tmp_path: Path) -> None:
    """As of a deeper model of the same width; an entry more within the same layers is no such thing."""
    a, b, c = (Imatrix({n: np.ones((1, 4), np.float32) for n in names}, {n: np.array([512]) for n in names})
        for names in (["blk.0.x", "blk.1.x"], ["blk.0.x", "blk.1.x", "blk.2.x"], ["blk.0.x", "blk.1.x", "blk.1.y"])
    )  # fmt: skip
    first, deeper, more = (write(one, tmp_path / name) for one, name in ((a, "a.gguf"), (b, "b.gguf"), (c, "c.gguf")))
    for pair in ([first, deeper], [deeper, first]):
        with pytest.raises(
            ImatrixError, match=r"layers: expected the . of .*; blk\.2 is in only one.*different models"
        ):
            merge(pair, tmp_path / "d.gguf")
    assert not (tmp_path / "d.gguf").exists()
    assert read(merge([first, more], tmp_path / "d.gguf")).names == c.names


def test_merge_of_nothing_and_write_of_a_legacy_one(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(ImatrixError, match="at least one imatrix"):
        merge([], tmp_path / "c")
    with pytest.raises(ImatrixError, match="Merge it alone"):
        write(read(reference / "demo.dat"), tmp_path / "c")
    assert read(merge([reference / "demo.dat"], tmp_path / "c")).chunk_count == 15


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write(make("a", [[1]], [1]), tmp_path / "missing" / "a.gguf")
