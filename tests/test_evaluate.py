"""evaluate against llama-perplexity's printed numbers, against float64 on the engine's logits; when it must refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf
from quantpress.engine import Engine
from quantpress.errors import DiskFullError, EngineError, GGUFError, InputError, OutputError, TextError
from quantpress.evaluate import Evaluation, affordable_chunks, evaluate, evaluations
from quantpress.progress import Progress
from quantpress.text import chunks
from tests.imatrix.moe import write_moe

FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15, "Q2_K": 10}
SPREAD = {"Q8_0": 0.2, "Q4_K_M": 0.1, "Q2_K": 0.05}  # of single divergences: twice what instruction sets differ by

QUANTIZE = """
import ctypes, sys
import llama_cpp.llama_cpp as llama
settings = llama.llama_model_quantize_default_params()
settings.ftype = int(sys.argv[3])
sys.exit(llama.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(settings)))
"""


class Recorder(Progress):
    """Keeps the notes, and has a look after each window."""

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self.notes: list[str] = []
        self.look = look

    def task(self, label: str, total: int, unit: str = "") -> Any:
        return _Task(self.look)

    def note(self, text: str) -> None:
        self.notes.append(text)


class _Task:
    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def __enter__(self) -> Callable[[int], None]:
        return lambda amount: self.look()

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture(scope="module")
def quants(bf16_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by llama.cpp's own quantizer."""
    folder = tmp_path_factory.mktemp("quants")
    found = {name: folder / f"{name}.gguf" for name in FILE_TYPES}
    for name, path in found.items():
        command = [sys.executable, "-c", QUANTIZE, str(bf16_gguf), str(path), str(FILE_TYPES[name])]
        subprocess.run(command, check=True, capture_output=True)
    return found


@pytest.fixture(scope="module")
def twin(bf16_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's bytes in another file, which is run as any other."""
    return Path(shutil.copy(bf16_gguf, tmp_path_factory.mktemp("twin") / "twin.gguf"))


@pytest.fixture
def prose(data: Path) -> Path:
    return data / "prose.txt"


@pytest.fixture(scope="module")
def measured(bf16_gguf: Path, quants: dict[str, Path], data: Path) -> dict[str, Evaluation]:
    """What the tests below compare: the windows of scripts/make_perplexity_reference.py."""
    found = evaluations(bf16_gguf, list(quants.values()), text=[data / "prose.txt"], chunks=4)
    return dict(zip(["base", *quants], found, strict=True))


@pytest.fixture(scope="module")
def printed(data: Path) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = json.loads((data / "perplexity.json").read_text())["printed"]
    return found


@pytest.mark.parametrize("name", FILE_TYPES)
def test_numbers_are_those_that_llama_perplexity_prints(
    name: str, measured: dict[str, Evaluation], printed: dict[str, dict[str, list[float]]]
) -> None:
    found, expected = measured[name], printed[name]
    assert found.tokens == 4 * 255
    assert found.perplexity == pytest.approx(expected["perplexity"][0], abs=0.05 * expected["perplexity"][1])
    assert found.perplexity_error == pytest.approx(expected["perplexity"][1], rel=1e-2)
    assert found.kld_mean == pytest.approx(expected["kld_mean"][0], abs=expected["kld_mean"][1])
    assert found.kld_error == pytest.approx(expected["kld_mean"][1], rel=SPREAD[name])
    for key in ("kld_median", "kld_p90", "kld_p95", "kld_p99", "kld_p999", "kld_max"):
        assert getattr(found, key) == pytest.approx(expected[key][0], rel=SPREAD[name]), key
    for key in ("same_top", "rms_dp"):
        assert getattr(found, key) == pytest.approx(expected[key][0], abs=expected[key][1]), key


def test_the_base_is_measured_too(measured: dict[str, Evaluation], printed: dict[str, dict[str, list[float]]]) -> None:
    base, (value, error) = measured["base"], printed["Q8_0"]["base_perplexity"]
    assert base.perplexity == pytest.approx(value, abs=0.05 * error)
    assert base.perplexity_error == pytest.approx(error, rel=1e-2)
    assert (base.kld_mean, base.kld_max, base.same_top, base.rms_dp) == (0, 0, 1, 0)


def test_more_bits_are_closer(measured: dict[str, Evaluation]) -> None:
    order = [measured[name] for name in ("Q8_0", "Q4_K_M", "Q2_K")]
    assert order == sorted(order, key=lambda row: row.kld_mean)
    assert order == sorted(order, key=lambda row: -row.same_top)


def test_the_names_that_others_rely_on(measured: dict[str, Evaluation], quants: dict[str, Path]) -> None:
    names = (
        "file tokens perplexity perplexity_error kld_mean kld_error kld_median kld_p90 kld_p95 kld_p99 kld_p999 "
        "kld_max same_top rms_dp"
    ).split()
    row = measured["Q2_K"]
    assert [field.name for field in fields(Evaluation)] == names
    assert list(row.to_dict()) == names
    assert json.loads(json.dumps(row.to_dict())) == row.to_dict()
    assert row.file == str(quants["Q2_K"])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    result: np.ndarray = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return result


@pytest.mark.parametrize("context", [4, 65])
def test_every_number_follows_from_the_logits(
    context: int, bf16_gguf: Path, quants: dict[str, Path], prose: Path
) -> None:
    own, found = evaluations(bf16_gguf, [quants["Q2_K"]], text=[prose], context=context, chunks=5)
    predictions = []
    for path in (bf16_gguf, quants["Q2_K"]):
        with Engine(path) as engine:
            windows = chunks(engine, [prose], context, limit=5)
            predictions.append(log_softmax(np.stack(list(engine.logits(windows)))[:, context // 2 : -1]))
    p, q = predictions
    targets = windows[:, context // 2 + 1 :, None]
    np.testing.assert_array_equal(windows[:, 0], 2)
    base_nll, nll = (-np.take_along_axis(x, targets, axis=2).reshape(-1) for x in (p, q))
    kld = (np.exp(p) * (p - q)).sum(axis=2).reshape(-1)
    count = len(nll)

    assert own.perplexity == pytest.approx(np.exp(base_nll.mean()), rel=1e-5)
    assert (found.tokens, own.tokens) == (count, count)
    assert found.perplexity == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    error = np.exp(nll.mean()) * nll.std(ddof=1) / np.sqrt(count)
    assert found.perplexity_error == pytest.approx(error, rel=1e-4)
    assert found.kld_mean == pytest.approx(kld.mean(), rel=1e-3)
    assert found.kld_error == pytest.approx(kld.std(ddof=1) / np.sqrt(count), rel=1e-3)
    assert found.kld_median == pytest.approx(np.median(kld), rel=2e-3)
    assert found.kld_p999 == pytest.approx(np.quantile(kld, 0.999), rel=2e-3)
    assert found.kld_max == pytest.approx(kld.max(), rel=2e-3)
    assert found.same_top == pytest.approx(np.mean(p.argmax(axis=2) == q.argmax(axis=2)))
    assert found.rms_dp == pytest.approx(np.sqrt(np.mean((np.exp(-nll) - np.exp(-base_nll)) ** 2)), rel=1e-4)


def test_scratch_space_is_announced_and_given_back(
    bf16_gguf: Path, quants: dict[str, Path], prose: Path, tmp_path: Path
) -> None:
    sizes: list[int] = []
    progress = Recorder(lambda: sizes.append(sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())))
    evaluate(bf16_gguf, [quants["Q2_K"]], text=[prose], context=64, chunks=6, scratch=tmp_path, progress=progress)
    size = 6 * 31 * 2 * (4096 + 4)
    assert [f"{size:,}" in note for note in progress.notes] == [True]
    assert max(sizes) == size
    assert not list(tmp_path.iterdir())


def test_the_base_alone_needs_no_scratch_space(bf16_gguf: Path, prose: Path, tmp_path: Path) -> None:
    progress = Recorder()
    settings: dict[str, Any] = {"text": [prose], "context": 64, "chunks": 3, "scratch": tmp_path, "scratch_limit": 0}
    assert evaluate(bf16_gguf, [], progress=progress, **settings) == []
    (base,) = evaluations(bf16_gguf, [], progress=progress, **settings)
    assert base.tokens == 3 * 31
    assert not progress.notes


def test_a_scratch_limit_says_how_many_chunks_fit(bf16_gguf: Path, twin: Path, prose: Path, tmp_path: Path) -> None:
    a_chunk = 31 * 2 * (4096 + 4)
    settings: dict[str, Any] = {"text": [prose], "context": 64, "chunks": 9, "scratch": tmp_path}
    with pytest.raises(InputError, match=rf"at most {7 * a_chunk + 1:,} bytes.*{9 * a_chunk:,} .* 7 chunks would fit"):
        evaluate(bf16_gguf, [twin], scratch_limit=7 * a_chunk + 1, **settings)
    with pytest.raises(InputError, match=f"One chunk needs {a_chunk:,} bytes"):
        evaluate(bf16_gguf, [twin], scratch_limit=a_chunk - 1, **settings)
    assert not list(tmp_path.iterdir())
    assert affordable_chunks(4096, 64, 7 * a_chunk + 1) == 7
    assert affordable_chunks(4096, 64, a_chunk - 1) == 0


def test_a_scratch_folder_that_was_missing_is_missing_again(
    bf16_gguf: Path, twin: Path, prose: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"text": prose, "context": 64, "scratch": tmp_path / "a" / "b"}
    assert evaluate(bf16_gguf, twin, chunks=2, **settings)[0].kld_mean < 1e-3
    with pytest.raises(InputError, match="scratch space"):
        evaluate(bf16_gguf, twin, chunks=2, scratch_limit=0, **settings)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_seen_beforehand(
    bf16_gguf: Path, twin: Path, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="1,000 free"):
        evaluate(bf16_gguf, [twin], text=[prose], context=64, chunks=3, scratch=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_an_error(bf16_gguf: Path, twin: Path, prose: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))  # the engine's process inherits it
    try:
        with pytest.raises(OutputError, match="distributions: cannot be written: File too large"):
            evaluate(bf16_gguf, [twin], text=[prose], context=64, chunks=9, scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_that_cannot_be_is_an_error(bf16_gguf: Path, prose: Path) -> None:
    with pytest.raises(OutputError, match="no scratch folder"):
        evaluate(bf16_gguf, [bf16_gguf], text=[prose], scratch=bf16_gguf)


@pytest.mark.parametrize("window", [1, 5])  # within the base, within the other
def test_an_interruption_leaves_nothing(
    window: int, bf16_gguf: Path, quants: dict[str, Path], prose: Path, tmp_path: Path
) -> None:
    seen: list[list[Path]] = []

    def interrupt() -> None:
        seen.append(list(tmp_path.rglob("distributions")))
        if len(seen) == window:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"text": [prose], "context": 64, "chunks": 4, "scratch": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        evaluate(bf16_gguf, [quants["Q2_K"]], progress=Recorder(interrupt), **settings)
    assert seen[0]
    assert not list(tmp_path.iterdir())


def with_tokens(source: Path, out: Path, change: Callable[[list[str]], list[str]]) -> Path:
    with gguf.read(source) as model:
        key = "tokenizer.ggml.tokens"
        metadata = {**model.metadata, key: gguf.Value.array(gguf.ValueType.STRING, change(list(model.get(key))))}
        return written(out, metadata, {name: (tensor, model.data(name)) for name, tensor in model.tensors.items()})


def written(out: Path, metadata: gguf.Metadata, tensors: dict[str, tuple[gguf.TensorSpec, np.ndarray]]) -> Path:
    specs = [gguf.TensorSpec(name, like.shape, like.type) for name, (like, _) in tensors.items()]
    with gguf.Writer(out, metadata, specs) as writer:
        for name, (_, values) in tensors.items():
            writer.write(name, 0, values)
    return out


def test_another_vocabulary_is_refused(bf16_gguf: Path, prose: Path, tmp_path: Path) -> None:
    shorter = with_tokens(bf16_gguf, tmp_path / "shorter.gguf", lambda tokens: tokens[:-6])
    other = with_tokens(bf16_gguf, tmp_path / "other.gguf", lambda tokens: [*tokens[:300], "otter", *tokens[301:]])
    with pytest.raises(InputError, match=r"shorter.gguf: vocabulary: expected 4,096 tokens.*found 4,090"):
        evaluate(bf16_gguf, [shorter], text=[prose])
    with pytest.raises(InputError, match=r"other.gguf: vocabulary: expected token 300 to be .*, found 'otter'"):
        evaluate(bf16_gguf, [bf16_gguf, other], text=[prose])


def test_another_model_with_the_same_vocabulary_is_refused(bf16_gguf: Path, prose: Path, tmp_path: Path) -> None:
    with gguf.read(bf16_gguf) as model:
        whole = {name: (tensor, model.data(name)) for name, tensor in model.tensors.items()}
        fewer = {name: one for name, one in whole.items() if not name.startswith("blk.5.")}
        wider = {**whole, "blk.0.attn_k.weight": whole["blk.0.attn_q.weight"]}
        other = written(tmp_path / "fewer.gguf", model.metadata, fewer)
        wide = written(tmp_path / "wider.gguf", model.metadata, wider)
    with pytest.raises(
        InputError, match=r"fewer.gguf: tensor blk\.5\.\S+: expected 256.*, found no such tensor.*no quant"
    ):
        evaluate(bf16_gguf, other, text=prose)
    with pytest.raises(InputError, match=r"BF16.gguf: tensor blk\.5\.\S+: expected no such tensor, as in fewer.gguf"):
        evaluate(other, bf16_gguf, text=prose)
    expected = r"attn_k\.weight: expected 256 × \d+, as in demo-gemma3-BF16\.gguf, found 256 × \d+"
    with pytest.raises(InputError, match=expected):
        evaluate(bf16_gguf, wide, text=prose)


def test_files_that_are_no_model(bf16_gguf: Path, data: Path, prose: Path) -> None:
    imatrix = data / "imatrix" / "demo.gguf"
    for base, quant in ((imatrix, bf16_gguf), (bf16_gguf, imatrix)):
        with pytest.raises(InputError, match=r"demo\.gguf: general\.architecture: .*found a GGUF file of type imatrix"):
            evaluate(base, quant, text=prose)
    with pytest.raises(GGUFError, match=r"prose\.txt: magic"):
        evaluate(bf16_gguf, prose, text=prose)


def test_the_base_among_the_quants_is_not_run_again(bf16_gguf: Path, prose: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(bf16_gguf)
    windows: list[int] = []
    progress = Recorder(lambda: windows.append(1))
    settings: dict[str, Any] = {"text": prose, "context": 64, "chunks": 3, "progress": progress}
    base, same, linked = evaluations(bf16_gguf, [bf16_gguf, link], scratch_limit=0, **settings)
    assert len(windows) == 3
    assert base == same == replace(linked, file=str(bf16_gguf))
    assert linked.file == str(link)


def test_a_context_beyond_the_models(prose: Path, tmp_path: Path) -> None:
    moe, progress = write_moe(tmp_path / "moe.gguf"), Recorder()
    list(evaluations(moe, [], text=prose, context=514, chunks=1, progress=progress))
    assert progress.notes == ["moe.gguf was trained on 512 tokens: beyond them it extrapolates"]


@pytest.fixture
def spoilt(bf16_gguf: Path, tmp_path: Path) -> Path:
    """The model with a NaN in its last norm."""
    out = Path(shutil.copy(bf16_gguf, tmp_path / "spoilt.gguf"))
    with gguf.read(out) as model:
        offset = model.tensors["output_norm.weight"].offset
    with out.open("r+b") as file:
        file.seek(offset + 40)
        file.write(np.float32(np.nan).tobytes())
    return out


def test_predictions_that_are_no_numbers_are_reported(bf16_gguf: Path, spoilt: Path, prose: Path) -> None:
    settings: dict[str, Any] = {"text": [prose], "context": 64, "chunks": 2}
    message = r"spoilt.gguf: 31 of 31 predictions of a chunk are no distribution"
    with pytest.raises(EngineError, match=message):
        evaluate(bf16_gguf, [spoilt], **settings)
    with pytest.raises(EngineError, match=message):
        evaluate(spoilt, [bf16_gguf], **settings)
    with pytest.raises(EngineError, match=message):
        list(evaluations(spoilt, [], **settings))


def test_unusable_settings(bf16_gguf: Path, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context: expected at least 4 tokens, found 3"):
        evaluate(bf16_gguf, [bf16_gguf], text=[prose], context=3)
    with pytest.raises(InputError, match="threads: expected at least 1, found 0"):
        evaluate(bf16_gguf, [bf16_gguf], text=[prose], threads=0)
    with pytest.raises(InputError, match="scratch limit: expected 0 bytes or more, found -1"):
        evaluate(bf16_gguf, [bf16_gguf], text=[prose], scratch_limit=-1)
    with pytest.raises(InputError, match="context"):
        affordable_chunks(4096, 3, 10**9)
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    with pytest.raises(TextError, match="expected at least 512 tokens"):
        evaluate(bf16_gguf, [bf16_gguf], text=[short])
