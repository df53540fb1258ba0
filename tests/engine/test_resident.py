"""Weights changed in memory, against llama.cpp on the files that `quantize` writes for the same types."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from quantpress.convert import convert
from quantpress.engine import Engine, Scores, resident
from quantpress.engine import tensor as structs
from quantpress.engine.messages import Settings
from quantpress.engine.session import Session, logits
from quantpress.engine.weights import obstacle
from quantpress.errors import EngineError, GGUFError, ImatrixError, InputError, PlanError
from quantpress.formats import TYPES, fitting_type
from quantpress.gguf import TensorSpec, read
from quantpress.plan import from_types
from quantpress.quantize import quantize
from quantpress.recipes import quantizable
from tests.convert.test_architectures import checkpoint
from tests.engine.enlarged import enlarged
from tests.oracle.models import importance

KINDS = (
    "Q4_K IQ2_XXS Q6_K IQ3_S Q8_0 IQ1_S Q2_K IQ4_XS Q3_K IQ2_S Q5_K IQ1_M IQ3_XXS Q4_0 IQ2_XS Q5_1 IQ4_NL "
    "TQ2_0 Q4_1 MXFP4 Q5_0 TQ1_0 F16"
).split()
CASES = {
    "phi": "BF16",  # one matrix for query, key and value, of which the graph has views
    "llama-2": "F16",
    "qwen2": "BF16",  # the output is the embedding
    "mixtral": "F32",
    "gpt-oss": "BF16",
}
# A tied output with memory of its own (gemma4-e), latent attention (deepseek-v3), a state beside
# attention (qwen3.5-moe), and rows that few types divide
NARROW = {"qwen3.5-moe": "BF16", "deepseek-v3": "BF16", "gemma4-e": "F16", "granite-moe-shared": "F32"}
ONE = "blk.1.ffn_up.weight"
FIRST = 15


def windows(vocab: int, count: int = 2, length: int = 48) -> np.ndarray:
    return np.random.default_rng(vocab).integers(6, vocab, size=(count, length), dtype=np.int32)


def mixed(model: Path, shift: int = 0, kinds: Sequence[str] = KINDS) -> dict[str, str]:
    """Every matrix of a model in one of `kinds`, in turn, or in what its rows take instead."""
    with read(model) as source:
        architecture = source.get("general.architecture")
        cols = {name: one.cols for name, one in source.tensors.items() if quantizable(name, one.shape, architecture)}
    turns = islice(cycle(kinds), shift, None)
    return {name: fitting_type(TYPES[kind], cols[name]).name for name, kind in zip(cols, turns, strict=False)}


def written(model: Path, types: Mapping[str, str], out: Path, **how: Any) -> Path:
    """The file that `quantize` writes."""
    with read(model) as source:
        every = {name: TYPES[types.get(name, tensor.type.name)] for name, tensor in source.tensors.items()}
        plan = from_types(source, every, recipe="mixed", file_type=15)
    return quantize(model, out=out, plans=[plan], **how)[0]


def scores(engine: Engine, distributions: Path) -> Scores:
    found = engine.score(windows(engine.info.vocab), FIRST, distributions)
    return Scores(*map(np.concatenate, zip(*found, strict=True)))


def on_file(model: Path, types: Mapping[str, str], distributions: Path, out: Path, **how: Any) -> Scores:
    """What llama.cpp computes on the file."""
    with Engine(written(model, types, out, **how)) as engine:
        return scores(engine, distributions)


def same(found: Scores, expected: Scores) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def all_logits(engine: Engine) -> np.ndarray:
    return np.stack(list(engine.logits(windows(engine.info.vocab))))


@pytest.mark.parametrize("name", [*CASES, *NARROW])
def test_computes_what_the_file_does(name: str, tmp_path: Path) -> None:
    folder = (enlarged if name in CASES else checkpoint)(name, tmp_path)
    model = convert(folder, tmp_path / f"{name}.gguf", type=(CASES | NARROW)[name])
    matrix, distributions = tmp_path / "imatrix.gguf", tmp_path / "distributions"
    importance(model, matrix)
    a, b = mixed(model), mixed(model, 7)
    with Engine(model, resident=True) as engine:
        before = all_logits(engine)
        list(engine.record(windows(engine.info.vocab), FIRST, distributions))
        expected = on_file(model, a, distributions, tmp_path / "a", imatrix=matrix)
        assert expected.kld.min() > 0
        engine.assign(a, imatrix=matrix)
        same(scores(engine, distributions), expected)
        engine.assign(b, imatrix=matrix)
        if name in CASES:
            same(scores(engine, distributions), on_file(model, b, distributions, tmp_path / "b", imatrix=matrix))
        engine.assign(a, imatrix=matrix)
        same(scores(engine, distributions), expected)
        engine.assign({})
        np.testing.assert_array_equal(all_logits(engine), before)


def test_an_embedding_model(tmp_path: Path) -> None:
    model = convert(checkpoint("bert", tmp_path), tmp_path / "bert.gguf")
    types, chunks = mixed(model), windows(100)
    with Engine(model, resident=True) as engine, Engine(written(model, types, tmp_path / "out")) as other:
        engine.assign(types)
        ((_, found),), ((_, expected),) = list(engine.activations(chunks)), list(other.activations(chunks))
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name][0], expected[name][0])


@pytest.fixture(scope="module")
def engine(bf16_gguf: Path) -> Iterator[Engine]:
    """The demo model: its output is the embedding."""
    with Engine(bf16_gguf, resident=True) as running:
        yield running


@pytest.fixture(scope="module")
def distributions(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record") / "distributions"
    list(engine.record(windows(engine.info.vocab), FIRST, path))
    return path


@pytest.mark.parametrize("how", [{"encoder": "ggml"}, {"effort": "fast"}, {"effort": "best"}])
def test_encoder_and_effort(
    engine: Engine, bf16_gguf: Path, distributions: Path, tmp_path: Path, how: dict[str, str]
) -> None:
    matrix, types = (
        tmp_path / "imatrix.gguf",
        {"token_embd.weight": "Q4_K", ONE: "Q3_K", "blk.2.attn_k.weight": "IQ4_XS"},
    )
    importance(bf16_gguf, matrix)
    engine.assign(types, imatrix=matrix)
    before = scores(engine, distributions)
    engine.assign(types, imatrix=matrix, **how)
    found = scores(engine, distributions)
    assert not np.array_equal(found.nll, before.nll)
    same(found, on_file(bf16_gguf, types, distributions, tmp_path, imatrix=matrix, **how))


def test_another_imatrix_in_the_same_place(
    engine: Engine, bf16_gguf: Path, distributions: Path, tmp_path: Path
) -> None:
    matrix, types = tmp_path / "imatrix.gguf", {ONE: "IQ2_S"}
    for seed in (1, 2):
        importance(bf16_gguf, matrix, seed=seed)
        engine.assign(types, imatrix=matrix)
        expected = on_file(bf16_gguf, types, distributions, tmp_path / str(seed), imatrix=matrix)
        same(scores(engine, distributions), expected)


def test_without_importance_and_types_in_lower_case(
    engine: Engine, bf16_gguf: Path, distributions: Path, tmp_path: Path
) -> None:
    engine.assign({ONE: "q2_k"})
    same(scores(engine, distributions), on_file(bf16_gguf, {ONE: "Q2_K"}, distributions, tmp_path))


def test_a_split_model(bf16_gguf: Path, distributions: Path, engine: Engine, tmp_path: Path) -> None:
    parts = written(bf16_gguf, {}, tmp_path, split_bytes=4_000_000)
    engine.assign({ONE: "Q4_K", "blk.0.attn_q.weight": "Q2_K"})
    expected = scores(engine, distributions)
    with Engine(parts, resident=True) as other:
        other.assign({ONE: "Q4_K", "blk.0.attn_q.weight": "Q2_K"})
        same(scores(other, distributions), expected)


@pytest.mark.parametrize(
    ("types", "how", "error", "words"),
    [
        ({"blk.9.ffn_up.weight": "Q4_K"}, {}, PlanError, "blk.9.ffn_up.weight: .* one that it does not have"),
        ({ONE: "Q4_L"}, {}, PlanError, "tensor type: expected one of .*found Q4_L"),
        ({"blk.0.attn_norm.weight": "Q8_0"}, {}, PlanError, "blk.0.attn_norm.weight: expected F32, as it is"),
        ({ONE: "I8"}, {}, PlanError, f"{ONE}: .*found I8"),
        ({ONE: "F32"}, {}, EngineError, rf"{ONE}: F32 takes [\d,]+ bytes, its memory in BF16 has [\d,]+\. Leave it"),
        ({ONE: "IQ2_XXS"}, {}, PlanError, f"{ONE}: expected an importance matrix that covers it, for IQ2_XXS"),
        ({ONE: "Q4_K"}, {"encoder": "exact"}, PlanError, "encoder: expected one of quantpress, ggml, found exact"),
        ({ONE: "Q4_K"}, {"effort": "great"}, PlanError, "effort of quantpress"),
        ({ONE: "Q4_K"}, {"imatrix": Path("none.gguf")}, ImatrixError, "none.gguf: file"),
    ],
)
def test_a_refusal_changes_nothing(
    engine: Engine, types: dict[str, str], how: dict[str, Any], error: type[Exception], words: str
) -> None:
    engine.assign({ONE: "Q2_K"})
    before = all_logits(engine)
    with pytest.raises(error, match=words):
        engine.assign({"blk.0.attn_q.weight": "Q2_K", **types}, **how)
    np.testing.assert_array_equal(all_logits(engine), before)


def test_an_imatrix_of_another_model(engine: Engine, tmp_path: Path) -> None:
    other = convert(checkpoint("llama-2", tmp_path), tmp_path / "other.gguf")
    importance(other, tmp_path / "imatrix.gguf")
    with pytest.raises(ImatrixError, match=r"imatrix\.gguf: .*another model"):
        engine.assign({ONE: "Q4_K"}, imatrix=tmp_path / "imatrix.gguf")


def test_an_encoder_that_cannot(bf16_gguf: Path, engine: Engine) -> None:
    with pytest.raises(PlanError, match="--encoder ggml encodes it"):
        engine.assign({ONE: "NVFP4"})


def test_weights_that_are_mapped(bf16_gguf: Path) -> None:
    with Engine(bf16_gguf) as plain, pytest.raises(EngineError, match=r"BF16.*cannot be changed: .* resident"):
        plain.assign({})


def test_a_quantized_source(bf16_gguf: Path, tmp_path: Path) -> None:
    model = written(bf16_gguf, {ONE: "Q8_0"}, tmp_path)
    with Engine(model, resident=True) as other:
        other.assign({"blk.0.ffn_up.weight": "Q4_K"})
        with pytest.raises(PlanError, match=rf"mixed\.gguf: tensor {ONE}: expected a float type, found Q8_0"):
            other.assign({ONE: "Q4_K"})


def test_a_tensor_that_the_graph_does_not_use(tmp_path: Path) -> None:
    """Keys of a layer that shares those of another: they may have any type, the logits are the same."""
    model = convert(checkpoint("gemma4-multimodal", tmp_path), tmp_path / "model.gguf")
    with Engine(model, resident=True) as other:
        windows = np.arange(16, dtype=np.int32).reshape(1, 16) + 3
        [before] = other.logits(windows)
        other.assign({"blk.3.attn_k.weight": "Q4_0"})
        np.testing.assert_array_equal(list(other.logits(windows)), [before])
        other.assign({"blk.3.attn_q.weight": "Q4_0", "blk.3.attn_k.weight": "Q4_0"})
        assert not np.array_equal(list(other.logits(windows)), [before])


def damaged(model: Path, path: Path, name: str) -> Path:
    """A copy with a NaN among the last weights of a BF16 tensor."""
    shutil.copy(model, path)
    with read(model) as source:
        tensor = source.tensors[name]
    with path.open("r+b") as file:
        file.seek(tensor.offset + tensor.nbytes - 2)
        file.write(b"\xc0\x7f")
    return path


def test_a_failure_half_way(bf16_gguf: Path, tmp_path: Path) -> None:
    model = damaged(bf16_gguf, tmp_path / "damaged.gguf", ONE)
    types = {"blk.0.attn_q.weight": "Q2_K", ONE: "Q4_K"}
    with pytest.raises(InputError) as expected:
        written(model, types, tmp_path / "out")
    chunks = windows(4096)
    with Engine(model, resident=True) as other, Engine(written(bf16_gguf, {ONE: "Q4_K"}, tmp_path)) as whole:
        with pytest.raises(InputError, match=r"damaged\.gguf: tensor blk\.1\.ffn_up\.weight, row \d+") as found:
            other.assign(types)
        assert str(found.value) == str(expected.value)
        for op in (lambda: other.logits(chunks), lambda: other.sample(10), lambda: other.activations(chunks)):
            with pytest.raises(EngineError, match="half changed, because the last assign failed: assign types again"):
                list(op())
        with pytest.raises(PlanError):
            other.assign({ONE: "nothing"})
        with pytest.raises(EngineError, match="half changed"):
            list(other.logits(chunks))
        shutil.copyfile(bf16_gguf, model)  # in place: the child has it open
        other.assign({ONE: "Q4_K"})
        np.testing.assert_array_equal(all_logits(other), all_logits(whole))


def test_a_file_that_shrinks(bf16_gguf: Path, tmp_path: Path) -> None:
    model = tmp_path / "shrinks.gguf"
    shutil.copyfile(bf16_gguf, model)
    with Engine(model, resident=True) as other:
        other.assign({ONE: "Q4_K"})
        with model.open("r+b") as file:
            file.truncate(100_000)
        with pytest.raises(GGUFError, match=rf"shrinks\.gguf: tensor {ONE}: .*the end"):
            other.assign({})


@pytest.mark.parametrize("limit", [0, 250_000, 1 << 30])
def test_the_cache_is_bounded(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """In this process, where the limit can be lowered."""
    monkeypatch.setattr(resident, "CACHE_BYTES", limit)
    session = Session(Settings(str(bf16_gguf), 2, 2, 0, "F16", resident=True))
    weights = resident._Resident(session)
    plans = [{f"blk.{layer}.ffn_up.weight": type for layer in range(4)} for type in ("Q4_K", "Q2_K")]
    found = []
    for plan in (*plans, *plans, {}):
        weights.assign(plan, None, "quantpress", "fast")
        assert weights.cache.bytes == sum(one.nbytes for one in weights.cache.entries.values()) <= limit
        found.append(np.stack(list(logits(session, windows(4096)))))
    np.testing.assert_array_equal(found[:2], found[2:4])
    assert not np.array_equal(found[0], found[1])
    assert bool(weights.cache.entries) == bool(limit)


def test_what_is_cached_is_not_encoded_again(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = resident._Resident(Session(Settings(str(bf16_gguf), 2, 2, 0, "F16", resident=True)))
    weights.assign({ONE: "Q4_K"}, None, "quantpress", "normal")
    weights.assign({ONE: "Q2_K"}, None, "quantpress", "normal")
    monkeypatch.setattr(resident, "encode_tile", None)
    weights.assign({ONE: "Q4_K"}, None, "quantpress", "normal")
    weights.assign({}, None, "quantpress", "normal")
    weights.assign({ONE: "Q2_K"}, None, "quantpress", "normal")
    weights.assign({ONE: "Q2_K"}, None, "quantpress", "normal")
    with pytest.raises(TypeError):
        weights.assign({ONE: "Q2_K"}, None, "quantpress", "best")


def struct(shape: tuple[int, ...], type: str) -> structs.Tensor:
    found = structs.Tensor(buffer=1)
    found.ne[:] = [*shape, 1, 1][:4]
    found.retype(TYPES[type])
    return found


def test_obstacles() -> None:
    """Where a weight may be that cannot be written: on a device, or in another shape than in the file."""
    spec = TensorSpec("x", (256, 8), TYPES["F16"])

    def found(*one: structs.Tensor, host: bool = True) -> str:
        functions = SimpleNamespace(ggml_backend_buffer_is_host=lambda _: host)
        return obstacle(structs.Library(functions, 1, 2), spec, one) or "none"  # type: ignore[arg-type]

    good, padded = struct((256, 8), "F16"), struct((256, 8), "F16")
    padded.nb[1] += 32
    assert found(good, good) == "none"
    assert "open the engine with gpu_layers=0" in found(good, host=False)
    assert "open the engine with gpu_layers=0" in found(structs.Tensor())
    assert found() == "none"  # no graph uses it: there is nothing to write
    for other in (padded, struct((256, 8), "BF16"), struct((256, 4, 2), "F16")):
        assert "expected type, shape and strides (1, (256, 8, 1, 1), (2, 512, 4096, 4096)), as in the file" in found(
            good, other
        )


def test_the_library_is_checked_before_it_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    structs.writable_library.cache_clear()
    right = structs.Tensor.retype

    def wrong(self: structs.Tensor, type: Any) -> None:
        right(self, type)
        self.nb[3] += type.name == "IQ2_S"

    with monkeypatch.context() as patch:
        patch.setattr(structs.Tensor, "retype", wrong)
        with pytest.raises(EngineError, match=r"struct ggml_tensor: .* of a tensor that became IQ2_S: expected"):
            structs.writable_library()
    assert structs.writable_library() is structs.checked_library()
