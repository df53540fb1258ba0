"""Errors of tensors and types against the core and, for ggml's bytes, the gguf package; samples; the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest

from quantpress import codec, sensitivity
from quantpress.encoding import Tile, decode, tile_errors
from quantpress.engine import ggml
from quantpress.errors import InputError, OutputError, PlanError
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import GGUF, TensorSpec, Value, Writer, read
from quantpress.imatrix import Imatrix
from quantpress.sensitivity import Error, Observation, Sensitivity, add_errors, fingerprint, read_sensitivity
from quantpress.statistics import Statistics
from tests.oracle import models

KINDS = ("Q2_K", "Q4_K", "Q6_K", "Q8_0", "IQ4_NL", "IQ3_S")
SMALL = ("Q8_0", "IQ4_NL", "Q5_1")  # for rows of 96 and 512 as well
ONE, TWO = "blk.0.ffn_up.weight", "blk.0.attn_q.weight"
EXPERTS = "blk.0.ffn_up_exps.weight"
IDENTITY = {"model": "a", "imatrix": None, "encoder": "quantpress", "effort": "normal"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return models.save(tmp_path / "Tiny-BF16.gguf")


@pytest.fixture
def model(path: Path) -> Iterator[GGUF]:
    with read(path) as source:
        yield source


@pytest.fixture
def imatrix(path: Path, tmp_path: Path) -> Imatrix:
    return models.importance(path, tmp_path / "imatrix.gguf")


@pytest.fixture
def mixture(tmp_path: Path) -> Iterator[GGUF]:
    with read(models.save(tmp_path / "Mixture.gguf", models.MIXTURE)) as source:
        yield source


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """What is encoded from now on."""
    seen: list[Tile] = []

    def noted(tile: Tile, encoder: str, effort: str) -> np.ndarray:
        seen.append(tile)
        return tile_errors(tile, encoder, effort)

    monkeypatch.setattr(sensitivity, "tile_errors", noted)
    return seen


def types(*names: str) -> list[TensorType]:
    return [TYPES[name] for name in names]


def nothing(path: Path | None = None) -> Sensitivity:
    return Sensitivity(dict(IDENTITY), path=path)


def errors(model: GGUF, imatrix: Imatrix | None, wanted: dict[str, list[TensorType]], **how: Any) -> Any:
    known = nothing()
    add_errors(known, Statistics(model, imatrix), wanted, **how)
    return known.errors


def weights(model: GGUF, name: str) -> np.ndarray:
    """float32 [matrices, rows, cols]."""
    tensor = model.tensors[name]
    rows = decode(model.data(name).reshape(-1, tensor.row_bytes), tensor.type, tensor.cols)
    return rows.reshape(tensor.matrices, -1, tensor.cols)


def ratio(x: np.ndarray, sums: np.ndarray, importance: np.ndarray | None) -> float:
    columns = np.ones(x.shape[-1]) if importance is None else importance.astype(np.float64)
    return float(sums.sum() / np.einsum("mrc,mrc,mc->", x, x, np.broadcast_to(columns, (len(x), x.shape[-1]))))


@pytest.mark.parametrize("covered", [False, True])
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_our_errors_are_the_core_s(model: GGUF, imatrix: Imatrix, covered: bool, effort: str) -> None:
    wanted = {ONE: types(*KINDS), "blk.1.ffn_down.weight": types(*SMALL), "token_embd.weight": types("Q3_K")}
    found = errors(model, imatrix if covered else None, wanted, effort=effort)
    assert {name: list(one) for name, one in found.items()} == {n: [t.name for t in ts] for n, ts in wanted.items()}
    for name in wanted:
        x, columns = weights(model, name).astype(np.float64), imatrix.importance(name) if covered else None
        for kind, error in found[name].items():
            sums = codec.error(weights(model, name), kind, columns, effort=effort)
            assert error == Error(pytest.approx(ratio(x, sums, columns), rel=1e-6), 0)


@pytest.mark.parametrize("covered", [False, True])
def test_ggml_s_errors_are_those_of_its_bytes(model: GGUF, imatrix: Imatrix, covered: bool) -> None:
    """By the gguf package's decoder and float64."""
    found = errors(model, imatrix if covered else None, {ONE: types(*KINDS)}, encoder="ggml")[ONE]
    x, columns = weights(model, ONE), imatrix.importance(ONE) if covered else None
    for kind in KINDS:
        data = ggml.quantize(x[0], TYPES[kind], None if columns is None else columns[0])
        decoded = oracle.quants.dequantize(data, oracle.GGMLQuantizationType[kind]).astype(np.float64)
        sums = (x[0] - decoded) ** 2 @ (np.ones(256) if columns is None else columns[0].astype(np.float64))
        assert found[kind] == Error(pytest.approx(ratio(x.astype(np.float64), sums, columns), rel=1e-9), 0)


@pytest.mark.parametrize("encoder", ["quantpress", "ggml"])
def test_experts_have_their_own_importance(mixture: GGUF, tmp_path: Path, tiles: list[Tile], encoder: str) -> None:
    """One that no token came to counts every column as 1."""
    imatrix = models.importance(mixture.path, tmp_path / "imatrix.gguf")
    found = errors(mixture, imatrix, {EXPERTS: types("Q4_K")}, encoder=encoder)[EXPERTS]["Q4_K"]
    columns = imatrix.importance(EXPERTS, 8)
    assert (columns[2] == 1).all()
    assert [tile.row for tile in tiles] == [13 * expert for expert in range(8)]
    for tile, expected in zip(tiles, columns, strict=True):
        np.testing.assert_array_equal(tile.importance, expected)
    if encoder == "quantpress":
        x = weights(mixture, EXPERTS)
        sums = codec.error(x, "Q4_K", columns)
        assert found.value == pytest.approx(ratio(x.astype(np.float64), sums, columns), rel=1e-6)


def test_an_entry_of_another_size_is_of_no_use(model: GGUF, imatrix: Imatrix) -> None:
    """As in `quantize`: an embedding's may have one."""
    name = "token_embd.weight"
    odd = Imatrix(dict(imatrix.sums) | {name: np.ones((1, 40), np.float32)}, imatrix.counts)
    assert errors(model, odd, {name: types("Q4_K")}) == errors(model, None, {name: types("Q4_K")})


def large(tmp_path: Path) -> Path:
    """A matrix of 400 rows that are like each other, and 4 experts of 150 rows, of which one is worse than the rest."""
    draw = np.random.default_rng(3)
    dense = draw.standard_normal((400, 256)).astype(np.float32)
    experts = draw.standard_normal((600, 256)).astype(np.float32)
    experts[450:] = draw.standard_t(2.1, (150, 256)) * draw.uniform(0.5, 2, (150, 1))
    specs = [TensorSpec(ONE, (256, 400), TYPES["F32"]), TensorSpec(EXPERTS, (256, 150, 4), TYPES["F32"])]
    with Writer(tmp_path / "large.gguf", {"general.architecture": Value.string("llama")}, specs) as writer:
        for spec, values in zip(specs, (dense, experts), strict=True):
            writer.write(spec.name, 0, values.view(np.uint8))
    return tmp_path / "large.gguf"


def test_a_sample_tells_the_error_as_well_as_it_says(
    tmp_path: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {ONE: types(*KINDS), EXPERTS: types(*KINDS)}
    with read(large(tmp_path)) as source:
        full = errors(source, None, wanted)
        monkeypatch.setattr(sensitivity, "SAMPLE", 100 * 256)
        tiles.clear()
        sampled, again = errors(source, None, wanted), errors(source, None, wanted, threads=2)
    assert sampled == again
    for name in wanted:
        for kind in KINDS:
            one, other = sampled[name][kind], full[name][kind]
            assert other.uncertainty == 0
            assert 0 < one.uncertainty < 0.3 * one.value
            assert abs(one.value - other.value) < 4 * one.uncertainty
    rows = [row for tile in tiles for row in range(tile.row, tile.row + len(tile.data)) if tile.tensor == ONE]
    assert len(rows) == 2 * 100
    assert len(set(rows)) == 100


def test_of_each_expert_as_many_rows(tmp_path: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLE", 100 * 256)
    with read(large(tmp_path)) as source:
        errors(source, None, {EXPERTS: types("Q8_0")})
    spans = [(tile.row, tile.row + len(tile.data) - 1) for tile in tiles]
    assert all(first // 150 == last // 150 for first, last in spans)
    rows = [row for first, last in spans for row in range(first, last + 1)]
    assert np.bincount(np.array(rows) // 150).tolist() == [25] * 4
    assert len({tuple(row % 150 for row in rows if row // 150 == expert) for expert in range(4)}) == 4


def test_a_type_that_the_encoder_does_not_know(model: GGUF) -> None:
    with pytest.raises(PlanError, match=f"tensor {ONE}: expected a type that can be encoded"):
        errors(model, None, {ONE: types("I8")})


def test_keeps_what_is_known(model: GGUF, tmp_path: Path, tiles: list[Tile]) -> None:
    file = tmp_path / "sensitivity.json"
    first = read_sensitivity(file, IDENTITY)
    assert (first.errors, first.probes) == ({}, {})
    add_errors(first, Statistics(model, None), {ONE: types("Q4_K", "Q8_0"), TWO: types("Q4_K")})
    first.probes["text"] = {ONE: [Observation(-0.25, 1e-3), Observation(1 / 3, 0)]}
    first.save()
    tiles.clear()
    second = read_sensitivity(file, IDENTITY)
    assert second == first
    add_errors(second, Statistics(model, None), {ONE: types("Q8_0", "Q4_K"), TWO: types("Q4_K")})
    assert tiles == []
    add_errors(second, Statistics(model, None), {ONE: types("Q8_0", "Q6_K"), TWO: types("Q4_K")})
    assert [(tile.tensor, tile.types) for tile in tiles] == [(ONE, (TYPES["Q6_K"],))]
    assert list(second.errors[ONE]) == ["Q4_K", "Q8_0", "Q6_K"]
    assert read_sensitivity(file, IDENTITY) == second


def test_what_was_done_before_an_error_is_kept(model: GGUF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(tile: Tile, *how: str) -> np.ndarray:
        if tile.tensor == TWO:
            raise InputError(None, "test")
        return tile_errors(tile, *how)

    monkeypatch.setattr(sensitivity, "tile_errors", fails)
    monkeypatch.setattr(sensitivity, "_SAVE_SECONDS", 0)
    file = tmp_path / "sensitivity.json"
    with pytest.raises(InputError, match=f"^{model.path}: test"):
        add_errors(nothing(file), Statistics(model, None), {ONE: types("Q8_0"), TWO: types("Q8_0")})
    assert list(read_sensitivity(file, IDENTITY).errors) == [ONE]


def test_without_a_path_nothing_is_kept(model: GGUF) -> None:
    known = read_sensitivity(None, IDENTITY)
    add_errors(known, Statistics(model, None), {ONE: types("Q8_0")})
    assert list(known.errors) == [ONE]


def test_a_folder_that_is_none(model: GGUF, tmp_path: Path) -> None:
    known = read_sensitivity(tmp_path / "none" / "sensitivity.json", IDENTITY)
    with pytest.raises(OutputError, match=r"sensitivity\.json"):
        add_errors(known, Statistics(model, None), {ONE: types("Q8_0")})


@pytest.mark.parametrize("key", [*IDENTITY, "version"])
def test_refuses_what_is_of_something_else(key: str, tmp_path: Path) -> None:
    file = tmp_path / "sensitivity.json"
    nothing(file).save()
    values = json.loads(file.read_text())
    for other in ({**values, key: "other"}, {name: value for name, value in values.items() if name != key}):
        file.write_text(json.dumps(other))
        if key == "imatrix" and key not in other:
            continue  # none is what it is of
        with pytest.raises(
            InputError, match=f"sensitivity.json: {key}: expected .*, found .*another model, imatrix"
        ) as caught:
            read_sensitivity(file, IDENTITY)
        assert (caught.value.path, caught.value.field) == (file, key)


def damaged() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Edits of a file's values, by what they do."""
    changes: dict[str, Any] = {
        "no errors": {"errors": None},
        "a list of errors": {"errors": []},
        "no number": {"errors": {ONE: {"Q8_0": ["1e-3", 0]}}},
        "a name for a pair": {"errors": {ONE: {"Q8_0": "12"}}},
        "one number": {"errors": {ONE: {"Q8_0": [1e-3]}}},
        "three numbers": {"errors": {ONE: {"Q8_0": [1e-3, 0, 0]}}},
        "NaN": {"errors": {ONE: {"Q8_0": [float("nan"), 0]}}},
        "infinite": {"errors": {ONE: {"Q8_0": [float("inf"), 0]}}},
        "negative": {"errors": {ONE: {"Q8_0": [-1e-3, 0]}}},
        "true": {"errors": {ONE: {"Q8_0": [True, 0]}}},
        "types in a list": {"errors": {ONE: [1, 2]}},
        "no probes": {"probes": None},
        "probes of no text": {"probes": [1]},
        "a probe without numbers": {"probes": {"text": {ONE: [None]}}},
        "a slope that is none": {"probes": {"text": {ONE: [["a", 0.1]]}}},
        "an infinite slope": {"probes": {"text": {ONE: [[float("inf"), 0.1]]}}},
    }
    return {what: lambda values, change=change: {**values, **change} for what, change in changes.items()}


@pytest.mark.parametrize("what", damaged())
def test_refuses_what_is_damaged(what: str, tmp_path: Path) -> None:
    file = tmp_path / "sensitivity.json"
    nothing(file).save()
    file.write_text(json.dumps(damaged()[what](json.loads(file.read_text()))))
    refused(file)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_refuses_what_is_no_json_object(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "sensitivity.json"
    file.write_bytes(text)
    refused(file)


def test_refuses_a_folder(tmp_path: Path) -> None:
    refused(tmp_path)


def refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"sensitivity: expected what `quantpress plan` writes, found .* Give") as it:
        read_sensitivity(file, IDENTITY)
    assert (it.value.path, it.value.field) == (file, "sensitivity")


def found_in(path: Path, imatrix: Imatrix | None = None) -> dict[str, str | None]:
    with read(path) as source:
        return fingerprint(source, imatrix)


def test_the_same_model_has_the_same_fingerprint(path: Path, imatrix: Imatrix, tmp_path: Path) -> None:
    found = found_in(path, imatrix)
    assert found == found_in(models.save(tmp_path / "copy.gguf"), imatrix)
    assert found_in(path)["imatrix"] is None
    other = models.importance(path, tmp_path / "other.gguf", seed=1)
    assert found_in(path, other)["model"] == found["model"]
    assert found_in(path, other)["imatrix"] != found["imatrix"]


def test_another_model_has_another(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a type, a shape, one weight of a tensor's first row."""
    renamed = {name.replace("blk.1.attn_q", "blk.1.attn_k"): shape for name, shape in models.DENSE.items()}
    taller = {**models.DENSE, ONE: (256, 65)}
    saved = [
        path,
        models.save(tmp_path / "renamed.gguf", renamed),
        models.save(tmp_path / "taller.gguf", taller),
        models.save(tmp_path / "F16.gguf", type="F16"),
    ]
    made = models.weights
    monkeypatch.setattr(models, "weights", lambda *shape: bumped(made(*shape)) if shape[0] == 4 else made(*shape))
    saved.append(models.save(tmp_path / "bumped.gguf"))
    assert len({found_in(one)["model"] for one in saved}) == len(saved)


def bumped(x: np.ndarray) -> np.ndarray:
    x[0, 200] += 0.125
    return x
