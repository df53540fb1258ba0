"""Statistics against the table of `llama-imatrix --show-statistics`; coverage; an imatrix of another model."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.errors import ImatrixError
from quantpress.formats import TYPES
from quantpress.imatrix import Imatrix, Sparse, audit, check_model, read, show, statistics, write

COLUMNS = ("sum", "min", "max", "mean", "std", "active", "columns", "entropy", "entropy_share", "zd", "cossim")
# Half of the last digit that it prints; a column on a threshold may fall to either side.
PRINTED = {"sum": 0.005, "min": 5e-5, "max": 5e-5, "mean": 0.005, "std": 0.005, "active": 5e-5, "columns": 0}
PRINTED |= {"entropy": 5e-5, "entropy_share": 5e-5, "cossim": 5e-5}


def table(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        layer, name, *cells = (cell.strip() for cell in line.split("\t"))
        numbers = [float(cell.rstrip("%")) / (100 if "%" in cell else 1) for cell in cells]
        rows[layer, name] = dict(zip(COLUMNS, numbers, strict=True))
    return rows


@pytest.mark.parametrize("name", ["demo", "moe"])
def test_statistics_are_llama_imatrixs(reference: Path, name: str) -> None:
    theirs = table(reference / f"{name}.txt")
    ours = statistics(read(reference / f"{name}.gguf"))
    assert len(ours) == len(theirs)
    for full, found in ours.items():
        parts = full.split(".")
        expected = theirs[(parts[1], parts[2]) if parts[0] == "blk" else ("-", parts[0])]
        for column, digit in PRINTED.items():
            value = getattr(found, column) or 0.0
            assert value == pytest.approx(expected[column], abs=digit, rel=2e-5), (full, column)
        assert found.zd == pytest.approx(expected["zd"], abs=5e-5 + 1 / found.columns), full
        assert (found.cossim is None) == (parts[1] == "0" or parts[0] != "blk")


def test_matrices_without_tokens_are_left_out() -> None:
    sums = np.array([[2, 4], [1e9, 1e9]], np.float32)
    found = statistics(Imatrix({"blk.0.a": sums, "none": sums}, {"blk.0.a": np.array([2, 0]), "none": np.zeros(2)}))
    assert list(found) == ["blk.0.a"]
    assert (found["blk.0.a"].sum, found["blk.0.a"].columns, found["blk.0.a"].tokens) == (3, 2, 2)


def test_a_dead_tensor() -> None:
    (found,) = statistics(Imatrix({"a": np.zeros((1, 4), np.float32)}, {"a": np.array([9])})).values()
    assert (found.sum, found.active, found.entropy, found.zd) == (0, 0, 0, 0)


def test_coverage(reference: Path, moe: Path) -> None:
    whole = read(reference / "moe.gguf")
    least = min(whole.counts["blk.0.ffn_up_exps.weight"])
    expert = int(np.argmin(whole.counts["blk.0.ffn_up_exps.weight"]))
    found = show(reference / "moe.gguf", model=moe, min_tokens=int(least) + 1)
    assert found.missing == ()
    assert Sparse("blk.0.ffn_up_exps.weight", expert, int(least)) in found.sparse
    assert show(reference / "moe.gguf", min_tokens=int(min(c.min() for c in whole.counts.values()))).sparse == ()
    assert show(reference / "moe.gguf").missing is None


def test_what_is_missing_is_named(reference: Path, moe: Path) -> None:
    whole = read(reference / "moe.gguf")
    gone = ("blk.1.attn_k.weight", "blk.0.ffn_down_exps.weight", "output.weight", "blk.0.ffn_gate_inp.weight")
    sums = {name: values for name, values in whole.sums.items() if name not in gone}
    with gguf.read(moe) as model:
        found = audit(Imatrix(sums, whole.counts), model)
    assert found.missing is not None
    assert set(found.missing) == set(gone[:3])  # the router is not quantized, the embedding not multiplied


def test_a_tied_output_is_missing_in_what_llama_imatrix_makes(reference: Path, f32_gguf: Path) -> None:
    theirs, name = read(reference / "demo.gguf"), "token_embd.weight"
    counts = {**theirs.counts, name: np.array([512])}
    with gguf.read(f32_gguf) as model:
        assert audit(theirs, model).missing == (name,)
        for cols, missing in ((256, ()), (4096, (name,))):  # another size is as good as none
            entry = np.ones((1, cols), np.float32)
            assert audit(Imatrix({**theirs.sums, name: entry}, counts), model).missing == missing


@pytest.mark.parametrize(("causal", "missing"), [(True, ("token_embd.weight",)), (False, ())])
def test_a_model_that_embeds_texts_has_no_output(causal: bool, missing: tuple[str, ...], tmp_path: Path) -> None:
    keys = {"attention.causal": gguf.Value.bool_(causal)}
    with gguf.read(small_model(tmp_path / "m.gguf", 1, ("token_embd.weight",), **keys)) as model:
        assert audit(ones(["blk.0.attn_q.weight"]), model).missing == missing


def test_legacy_counts_are_chunks(reference: Path) -> None:
    assert audit(read(reference / "demo.dat"), min_tokens=15 * 512).sparse == ()
    assert len(audit(read(reference / "demo.dat"), min_tokens=15 * 512 + 1).sparse) == 42


def test_fits_its_model(reference: Path, f32_gguf: Path) -> None:
    with gguf.read(f32_gguf) as model:
        check_model(read(reference / "demo.gguf"), model)
        check_model(read(reference / "demo.dat"), model)


def test_of_another_model(reference: Path, f32_gguf: Path, moe: Path) -> None:
    with gguf.read(f32_gguf) as model:
        expected = r"moe\.gguf: blk\.0\.attn_k\.weight: expected 256 values \(1 × 256, as in .*\), found 64"
        with pytest.raises(ImatrixError, match=expected):
            check_model(read(reference / "moe.gguf"), model)
    with pytest.raises(ImatrixError, match=r"demo\.gguf: blk\.0\.attn_k\.weight"):
        show(reference / "demo.gguf", model=moe)


def ones(names: Iterable[str], cols: int = 32) -> Imatrix:
    names = list(names)
    return Imatrix({name: np.ones((1, cols), np.float32) for name in names}, {name: np.array([512]) for name in names})


def small_model(path: Path, layers: int, others: tuple[str, ...] = (), **keys: gguf.Value) -> Path:
    metadata = {"general.architecture": gguf.Value.string("some")} | {
        f"some.{key}": value for key, value in keys.items()
    }
    names = (*(f"blk.{n}.attn_q.weight" for n in range(layers)), *others)
    specs = [gguf.TensorSpec(name, (32, 8), TYPES["F32"]) for name in names]
    with gguf.Writer(path, metadata, specs) as writer:
        for spec in specs:
            writer.write(spec.name, 0, np.zeros((8, 128), np.uint8))
    return path


def test_of_a_deeper_model(tmp_path: Path) -> None:
    path = write(ones(f"blk.{n}.attn_q.weight" for n in range(4)), tmp_path / "i.gguf")
    expected = r"i\.gguf: blk\.3\.attn_q\.weight: expected a weight of .*m\.gguf, such as blk\.0.*, found none.*another"
    with gguf.read(small_model(tmp_path / "m.gguf", 3)) as model, pytest.raises(ImatrixError, match=expected):
        check_model(read(path), model)


def test_of_a_shallower_model(tmp_path: Path) -> None:
    path = write(ones(f"blk.{n}.attn_q.weight" for n in range(2)), tmp_path / "i.gguf")
    expected = r"i\.gguf: blk\.2: expected entries for the 4 layers of .*m\.gguf, found none for 2 of them.*another"
    with gguf.read(small_model(tmp_path / "m.gguf", 4)) as model, pytest.raises(ImatrixError, match=expected):
        check_model(read(path), model)


def test_layers_that_llama_cpp_does_not_run(tmp_path: Path) -> None:
    """`block_count` counts them."""
    imatrix = ones(f"blk.{n}.attn_q.weight" for n in range(2))
    keys = {"block_count": gguf.Value.u32(3), "nextn_predict_layers": gguf.Value.u32(1)}
    with gguf.read(small_model(tmp_path / "m.gguf", 3, **keys)) as model:
        check_model(imatrix, model)
        with pytest.raises(ImatrixError, match=r"blk\.1: expected entries for the 2 layers"):
            check_model(ones(["blk.0.attn_q.weight"]), model)


def test_entries_that_any_model_may_have(tmp_path: Path) -> None:
    names = ["blk.0.attn_q.weight", "blk.0.attn_q.weight (reshaped)", "output.weight", "token_embd.weight"]
    with gguf.read(small_model(tmp_path / "m.gguf", 1)) as model:
        check_model(ones(names), model)


def test_of_no_model_with_such_names(f32_gguf: Path) -> None:
    with gguf.read(f32_gguf) as model, pytest.raises(ImatrixError, match=r"layers\.0\.q: expected a weight of"):
        check_model(ones(["layers.0.q"]), model)
