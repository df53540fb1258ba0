"""Files encoded anew behind their own layers: that they are closer, that nothing else changes, what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest

from quantpress import gguf, moments
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.errors import GGUFError, ImatrixError, InputError, PlanError, TextError
from quantpress.imatrix import imatrix
from quantpress.progress import Progress
from quantpress.repair import repair
from quantpress.text import chunks
from tests.convert.test_architectures import checkpoint
from tests.engine.test_resident import mixed, written
from tests.oracle import models

WINDOWS = 9
FIRST_LAYERS = {f"blk.{layer}.{name}.weight": type for layer in (0, 1) for name, type in {
    "attn_q": "IQ3_S", "attn_k": "Q4_0", "attn_v": "Q4_K", "attn_output": "Q3_K", "ffn_gate": "Q2_K", "ffn_up": "Q2_K",
    "ffn_down": "Q3_K"}.items()}  # fmt: skip
TYPES = {**FIRST_LAYERS, "blk.2.ffn_up.weight": "Q8_0", "token_embd.weight": "Q8_0"}


ORDER = [name for name in TYPES if name.startswith("blk.")]  # that of the graph


@pytest.fixture(scope="module")
def statistics(bf16_gguf: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importance matrix with moments beside it."""
    out = tmp_path_factory.mktemp("statistics") / "I.gguf"
    return imatrix(bf16_gguf, text=prose, out=out, chunks=WINDOWS, moments=True, threads=2)


@pytest.fixture(scope="module")
def given(bf16_gguf: Path, statistics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to repair: two layers and a few more tensors, in many types."""
    return written(bf16_gguf, TYPES, tmp_path_factory.mktemp("given"), effort="compensated", imatrix=statistics)


@pytest.fixture(scope="module")
def repaired(
    bf16_gguf: Path, given: Path, statistics: Path, prose: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """The file, and the ratio of each matrix that was encoded anew."""
    out = tmp_path_factory.mktemp("repaired") / "new" / "repaired.gguf"
    path, done = repair(bf16_gguf, given, text=prose, out=out, imatrix=statistics, chunks=WINDOWS, threads=2)
    assert path == out
    assert [one.tensor for one in done] == ORDER
    return path, {one.tensor: one.ratio for one in done if one.changed}


def errors(model: Path, files: list[Path], prose: Path) -> list[float]:
    """Mean squared error of the logits of the windows that were summed."""
    found = []
    for path in (model, *files):
        with Engine(path, threads=2) as engine:
            found.append(np.stack(list(engine.logits(chunks(engine, [prose], 512, limit=4)))))
    return [float(np.square(one - found[0], dtype=np.float64).mean()) for one in found[1:]]


def test_llama_cpp_runs_the_result_which_is_closer(
    bf16_gguf: Path, given: Path, repaired: tuple[Path, Mapping[str, float]], prose: Path
) -> None:
    after, before = errors(bf16_gguf, [repaired[0], given], prose)
    assert 0 < after < 0.9 * before


def test_what_changes(given: Path, repaired: tuple[Path, Mapping[str, float]]) -> None:
    """The tensors that are said to have changed, and two keys: by the gguf package."""
    path, ratios = repaired
    assert len(ratios) >= 10
    assert all(0.2 < ratio < 1 for ratio in ratios.values())
    old, new = (package.GGUFReader(file) for file in (given, path))
    assert [(one.name, one.tensor_type, one.shape.tolist()) for one in new.tensors] == [
        (one.name, one.tensor_type, one.shape.tolist()) for one in old.tensors
    ]
    changed = {one.name for one, other in zip(new.tensors, old.tensors, strict=True) if (one.data != other.data).any()}
    assert changed == ratios.keys()
    added = new.fields.keys() - old.fields.keys()
    assert {key: new.fields[key].contents() for key in added} == {
        "quantize.repaired.chunks_count": WINDOWS,
        "quantize.repaired.dataset": "prose.txt",
    }
    assert all(old.fields[key].contents() == new.fields[key].contents() for key in old.fields if "GGUF." not in key)


def test_threads_and_parts_change_no_tensor(
    bf16_gguf: Path,
    given: Path,
    statistics: Path,
    repaired: tuple[Path, Mapping[str, float]],
    prose: Path,
    tmp_path: Path,
) -> None:
    how: dict[str, Any] = {"text": [prose], "imatrix": statistics, "chunks": WINDOWS}
    split, _ = repair(bf16_gguf, given, out=tmp_path / "a.gguf", threads=1, split_bytes=3_000_000, **how)
    assert split.name == "a-00001-of-00004.gguf"
    with gguf.read(split) as one, gguf.read(repaired[0]) as whole:
        assert one.tensors.keys() == whole.tensors.keys()
        assert all(np.array_equal(one.data(name), whole.data(name)) for name in whole.tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_file_of_another_encoder(bf16_gguf: Path, statistics: Path, prose: Path, tmp_path: Path) -> None:
    """With moments that lie elsewhere."""
    types = {"blk.0.ffn_up.weight": "Q4_K"}
    first = written(bf16_gguf, types, tmp_path / "ggml", encoder="ggml")
    second = moments.beside(statistics)
    path, (one,) = repair(bf16_gguf, first, text=prose, out=tmp_path / "b.gguf", moments=second, chunks=3)
    assert one.changed
    with gguf.read(path) as file:
        assert file.get("quantize.compensated.chunks_count") == WINDOWS
        assert file.get("quantize.repaired.chunks_count") == 3
    after, before = errors(bf16_gguf, [path, first], prose)
    assert after < before


def retrained(model: Path, path: Path) -> Path:
    """Another model of the same shapes."""
    with gguf.read(model) as source:
        specs = [gguf.TensorSpec(name, one.shape, one.type) for name, one in source.tensors.items()]
        with gguf.Writer(path, source.metadata, specs) as writer:
            for name in source.tensors:
                data = np.array(source.data(name))
                if name == "blk.0.attn_norm.weight":
                    data.view(np.float32)[...] *= 1.01
                writer.write(name, 0, data)
    return path


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_experts_are_copied(moe: Path, prose: Path, tmp_path: Path) -> None:
    """And that is said; a text that is shorter than asked for, too."""
    how = {"imatrix": imatrix(moe, text=prose, out=tmp_path / "I.gguf", context=128, chunks=4, moments=True)}
    with gguf.read(moe) as source:
        types = {name: "Q4_0" for name, one in source.tensors.items() if re.search("attn_[qkvo].*t.weight|_exps", name)}
        types = {name: type for name, type in types.items() if len(source.tensors[name].shape) > 1}
    first, progress = written(moe, types, tmp_path / "a", **how), Notes()
    short = tmp_path / "short.txt"
    short.write_text(prose.read_text()[:4000])
    path, done = repair(moe, first, text=short, out=tmp_path / "b.gguf", progress=progress, **how)
    experts = sorted(name for name in types if "exps" in name)
    assert sorted(one.tensor for one in done) == sorted(types.keys() - experts)
    assert experts
    copied = next(note for note in progress.notes if note.startswith("copied as they are"))
    assert all(name in copied for name in experts)
    assert any("windows, not 64" in note for note in progress.notes)
    with gguf.read(first) as old, gguf.read(path) as new:
        assert all(np.array_equal(old.data(name), new.data(name)) for name in experts)


@pytest.mark.parametrize(
    ("name", "changing", "copied"),
    [
        ("llama-2", "output.weight", "token_embd.weight"),
        ("phi", "blk.1.attn_qkv.weight", "token_embd.weight"),  # one matrix for query, key and value
        ("deepseek-v3", "blk.0.ffn_up.weight", "blk.0.attn_v_b.weight"),  # a matrix for each head
        ("gemma4-e", "blk.0.attn_q.weight", "per_layer_token_embd.weight"),
    ],
)
def test_other_architectures(name: str, changing: str, copied: str, prose: Path, tmp_path: Path) -> None:
    model = convert(checkpoint(name, tmp_path), tmp_path / "m.gguf")
    how = {"imatrix": imatrix(model, text=prose, out=tmp_path / "I.gguf", context=128, chunks=8, moments=True)}
    types = mixed(model, kinds=["Q4_0"])
    first = written(model, types, tmp_path / "a", effort="compensated", allow_plain=True, **how)
    path, done = repair(model, first, text=prose, out=tmp_path / "b.gguf", chunks=3, **how)
    assert changing in {one.tensor for one in done}
    assert copied not in {one.tensor for one in done}
    assert copied in types
    with Engine(path) as engine:
        window = np.arange(10, 42, dtype=np.int32)[None]
        assert np.isfinite(list(engine.logits(window))).all()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model."""
    return models.save(tmp_path_factory.mktemp("other") / "other-BF16.gguf")


def test_what_is_refused(
    bf16_gguf: Path, given: Path, statistics: Path, other: Path, prose: Path, tmp_path: Path
) -> None:
    """With nothing left behind."""
    short = tmp_path / "short.txt"
    short.write_text("A few words.")
    single = tmp_path / "one.txt"
    single.write_text(prose.read_text()[:2000])
    twin = written(retrained(bf16_gguf, tmp_path / "twin.gguf"), {"blk.0.ffn_up.weight": "Q4_0"}, tmp_path / "twin")
    foreign = models.importance(other, tmp_path / "O.gguf").path
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, r"demo-gemma3-mixed.gguf: tensor .* as in .*other-BF16.gguf, found", {"model": other}),
        (InputError, r"tensor blk.0.attn_norm.weight: expected the values of .*, found others", {"quantized": twin}),
        (PlanError, "expected a float type, found", {"model": given}),
        (InputError, "quantized matrices with moments of their inputs, found none", {"quantized": bf16_gguf}),
        (GGUFError, "prose.txt", {"quantized": prose}),
        (InputError, "chunks: expected at least two: .* found 1", {"chunks": 1}),
        (InputError, "one.txt: text: expected at least two windows of 512 tokens, found 1", {"text": single}),
        (TextError, "at least 512 tokens", {"text": str(short)}),
        (InputError, "second moments, for compensated encoding, found none", {"imatrix": None}),
        (ImatrixError, "O.gguf", {"imatrix": foreign}),
        (InputError, "threads: expected at least 1", {"threads": 0}),
        *((PlanError, "than the sources, found a source", {"out": one}) for one in (given, statistics, prose)),
        (PlanError, "than the sources, found a source", {"out": moments.beside(statistics)}),
    ]
    before = given.read_bytes()
    for kind, words, how in cases:
        usual = {"model": bf16_gguf, "quantized": given, "text": prose, "imatrix": statistics, "chunks": 3}
        with pytest.raises(kind, match=words):
            repair(**{**usual, "out": tmp_path / "out" / "x.gguf", "threads": 2, **how})  # type: ignore[arg-type]
        assert not list(tmp_path.rglob("*x.gguf*")), words
    assert given.read_bytes() == before
