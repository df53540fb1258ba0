"""The footprint against what llama.cpp allocates when it really loads the model and makes the context."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf
from quantpress.children import python_command
from quantpress.convert import convert
from quantpress.engine import buffers
from quantpress.engine.buffers import parse
from quantpress.errors import EngineError, PlanError
from quantpress.formats import TYPES
from quantpress.gguf import GGUF, TensorSpec, Value, ValueType, Writer, layout
from quantpress.gguf.parser import ParsedFile
from quantpress.memory import CACHE_TYPES, Footprint, footprint, weight_budget
from quantpress.plan import plan
from quantpress.quantize import quantize
from quantpress.sizes import parse_bytes
from tests.convert.test_architectures import checkpoint
from tests.recipes import shapes

CASES = {
    "llama-3.1": [(512, "F16"), (32768, "Q8_0")],
    "mistral": [(4096, "F16")],
    "qwen3-moe": [(4096, "BF16")],
    "deepseek-v3": [(32768, "F16")],  # latent attention: keys hold the values
    "gemma4": [(4096, "F16")],  # sliding windows, keys that are values
    "gemma4-e": [(32768, "F16")],  # layers that share a cache
    "gpt-oss": [(512, "F32"), (32768, "Q8_0")],  # sliding windows
    "qwen3.5": [(32768, "Q8_0")],  # recurrent states
    "bert": [(512, "F16")],  # no cache at all
}

_REALLY = """
import ctypes, json, os, sys
import llama_cpp.llama_cpp as llama
model, load_mode, contexts = json.loads(sys.argv[1])
answers = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
log = []
@llama.llama_log_callback
def callback(level, text, _):
    log.append(text.decode(errors="replace"))
llama.llama_log_set(callback, ctypes.c_void_p(0))
llama.llama_backend_init()
parameters = llama.llama_model_default_params()
parameters.load_mode, parameters.use_extra_bufts, parameters.n_gpu_layers = load_mode, False, 0
loaded = llama.llama_model_load_from_file(model.encode(), parameters)
loading, found = "".join(log), []
for tokens, type, outputs in contexts:
    log.clear()
    parameters = llama.llama_context_default_params()
    parameters.n_ctx, parameters.type_k, parameters.type_v, parameters.swa_full = tokens, type, type, False
    parameters.n_outputs_max = outputs
    llama.llama_free(llama.llama_init_from_model(loaded, parameters))
    found.append(loading + "".join(log))
json.dump(found, answers)
"""


def allocated(model: Path, *contexts: tuple[int, str, int], mapped: bool = True) -> list[dict[str, float]]:
    """MiB of the buffers that llama.cpp really allocates for each (tokens, cache type, outputs).

    Unlike allocated weights, `mapped` ones hold what lies between those that are used.
    """
    question = json.dumps(
        [str(model), -1 if mapped else 0, [(tokens, TYPES[type].id, outputs) for tokens, type, outputs in contexts]]
    )
    done = subprocess.run(python_command(_REALLY, question), capture_output=True, check=True)
    parts = {"model": "weights", "KV": "cache", "RS": "cache", "compute": "compute", "output": "output"}
    found = []
    for log in json.loads(done.stdout):
        sizes = dict.fromkeys(parts.values(), 0.0)
        for kind, size in re.findall(r"(\w+) buffer size = +([0-9.]+) MiB\n", log):
            sizes[parts[kind]] += float(size)
        found.append(sizes)
    return found


def check(found: Footprint, expected: dict[str, float]) -> None:
    """Equal to the hundredths that llama.cpp prints, of up to two caches; never less, and the total within 3 %."""
    for part, size in expected.items():
        assert -0.006 < getattr(found, part) / (1 << 20) - size < 0.021, part
    total = sum(expected.values())
    assert total - 0.02 <= found.total / (1 << 20) <= 1.03 * total


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The GGUF file of a stored checkpoint by its name."""
    parent = tmp_path_factory.mktemp("tiny")
    return functools.cache(lambda name: convert(checkpoint(name, parent), parent / f"{name}.gguf"))


@pytest.mark.parametrize("name", CASES)
def test_equals_what_is_allocated(name: str, tiny: Any) -> None:
    cases = CASES[name]
    for (context, type), expected in zip(cases, allocated(tiny(name), *((*c, 0) for c in cases)), strict=True):
        found = footprint(tiny(name), context=context, cache_type=type.lower())
        check(found, expected)
        assert (found.context, found.cache_type) == (context, type)
        assert (found.cache > 0) == (name != "bert")


def test_a_context_beyond_training(bf16_gguf: Path) -> None:
    """The demo was trained on 2,048 tokens; llama.cpp allows more. One row of logits at a time, as in a chat."""
    (expected,) = allocated(bf16_gguf, (16384, "Q8_0", 1))
    check(footprint(bf16_gguf, context=16384, cache_type="q8_0", outputs=1), expected)


def test_a_planned_file_takes_what_the_quantized_one_does(bf16_gguf: Path, tmp_path: Path) -> None:
    planned = plan(bf16_gguf, type="Q4_K_M")
    found = footprint(bf16_gguf, planned.tensors, context=4096)
    (path,) = quantize(bf16_gguf, out=tmp_path / "out", plans=[planned])
    assert footprint(path, context=4096) == found
    check(found, allocated(path, (4096, "F16", 0))[0])


def test_cache_and_compute_buffers_do_not_depend_on_the_weights(bf16_gguf: Path, tiny: Any) -> None:
    """So a budget is a subtraction: from the widest types to the narrowest, embeddings and output included."""
    for model in (bf16_gguf, tiny("qwen3-moe")):
        with gguf.read(model) as source:
            wide = dict.fromkeys(source.tensors, "F32")
            narrow = {
                name: next((t for t in ("IQ2_XXS", "Q2_K", "Q4_0") if not tensor.cols % TYPES[t].block), "F16")
                for name, tensor in source.tensors.items()
                if len(tensor.shape) > 1 and "conv1d" not in name
            }
            one, other = (footprint(source, types, context=8192) for types in (wide, narrow))
        assert one.weights > 2 * other.weights
        assert (one.cache, one.compute, one.output) == (other.cache, other.compute, other.output)


def test_budget_is_the_largest_file_that_fits(bf16_gguf: Path) -> None:
    """The quantized file's own footprint is a budget that exactly that file exhausts."""
    with gguf.read(bf16_gguf) as source:
        planned = plan(source, type="Q5_K_M")
        found = footprint(source, planned.tensors, context=2048, cache_type="q8_0")
        specs = [TensorSpec(name, tensor.shape, planned.types[name]) for name, tensor in source.tensors.items()]
        fits = layout(source.metadata, specs).file_bytes
        assert weight_budget(source, found.total, context=2048, cache_type="q8_0") == fits
        longer = source.metadata | {"general.description": Value.string("x" * 3200)}
        larger = weight_budget(source, found.total, context=2048, cache_type="q8_0", metadata=longer)
        assert larger == layout(longer, specs).file_bytes > fits


def test_a_header_is_enough(tmp_path: Path) -> None:
    """As for a file on the Hub: Gemma 3 4B at 131,072 tokens, of which there is the header alone."""
    with gguf.read(shapes.gemma3_4b(tmp_path / "gemma-3-4b.gguf")) as whole:
        keys = {"tokenizer.ggml.model": Value.string("none"), "gemma3.vocab_size": Value.u32(262144)}
        keys, tensors = whole.metadata | keys, [*whole.tensors.values()]
        header = GGUF([ParsedFile(whole.path, whole.version, whole.alignment, keys, tensors, b"")])
    whole.path.unlink()
    found = footprint(header, context=131072)
    assert found.weights == sum(tensor.nbytes for tensor in header.tensors.values())
    window, everything = 29 * (1024 + 512), 5 * 131072  # of 34 layers, every sixth sees all tokens
    assert found.cache == pytest.approx((window + everything) * 2 * 2 * 4 * 256, abs=30_000)
    assert found.compute > 512 * 262144 * 4  # the logits of a batch
    assert footprint(header, context=131072, outputs=1).compute < 512 * 262144 * 4


def test_unused_tensors_take_no_memory(tiny: Any, tmp_path: Path) -> None:
    """A block that predicts the token after the next, which llama.cpp leaves out unless it is asked for it."""
    with gguf.read(tiny("qwen3.5")) as source:
        hidden = source.tensors["output_norm.weight"].shape[0]
        specs = [TensorSpec(name, tensor.shape, tensor.type) for name, tensor in source.tensors.items()]
        block = [replace(spec, name=spec.name.replace("blk.1.", "blk.3.")) for spec in specs if "blk.1." in spec.name]
        more = {"eh_proj": (2 * hidden, hidden), "enorm": (hidden,), "hnorm": (hidden,)}
        block += [TensorSpec(f"blk.3.nextn.{name}.weight", shape, TYPES["F32"]) for name, shape in more.items()]
        keys = {"block_count": Value.u32(4), "nextn_predict_layers": Value.u32(1)}
        keys["attention.recurrent_layers"] = Value.array(ValueType.BOOL, [True, False, True, False])
        metadata = source.metadata | {f"qwen35.{key}": value for key, value in keys.items()}
    path = tmp_path / "nextn.gguf"
    with Writer(path, metadata, [*specs, *block]) as writer:
        for spec in [*specs, *block]:
            writer.write(spec.name, 0, np.zeros((spec.rows, spec.row_bytes), np.uint8))
    found = footprint(path, context=512)
    check(found, allocated(path, (512, "F16", 0), mapped=False)[0])
    assert found == footprint(tiny("qwen3.5"), context=512)


def test_llama_cpp_says_why_a_cache_type_is_impossible(tiny: Any) -> None:
    with pytest.raises(PlanError, match=r"gemma4-e\.gguf: type of the KV cache: .*Q8_0: K cache type q8_0 .*=16\. F16"):
        footprint(tiny("gemma4-e"), context=512, cache_type="q8_0")


def test_arguments_that_are_not_possible(bf16_gguf: Path) -> None:
    for type in ("Q6_K", "f8", ""):
        with pytest.raises(PlanError, match="type of the KV cache: expected one of f32, f16, bf16, q8_0"):
            footprint(bf16_gguf, context=512, cache_type=type)
    for context in (0, -1, 1 << 40):
        with pytest.raises(PlanError, match="context: expected 1 to 16,777,216 tokens"):
            footprint(bf16_gguf, context=context)
    with pytest.raises(PlanError, match="outputs: expected 0 for all"):
        footprint(bf16_gguf, context=512, outputs=-1)
    with pytest.raises(PlanError, match=r"tensor blk\.99\.attn_q\.weight: expected the tensors of the model"):
        footprint(bf16_gguf, {"blk.99.attn_q.weight": "Q8_0"}, context=512)
    with pytest.raises(
        PlanError, match=r"tensor blk\.0\.attn_k_norm\.weight: expected a type that rows of \d+ can have"
    ):
        footprint(bf16_gguf, {"blk.0.attn_k_norm.weight": "Q4_K"}, context=512)
    with pytest.raises(PlanError, match="tensor type: expected one of F32"):
        footprint(bf16_gguf, {"token_embd.weight": "Q4_K_M"}, context=512)
    assert {TYPES[type].name for type in CACHE_TYPES} == set(CACHE_TYPES)


def test_memory_that_is_too_small(bf16_gguf: Path) -> None:
    found = footprint(bf16_gguf, context=4096)
    rest = found.total - found.weights
    with pytest.raises(
        PlanError, match=rf"memory: expected more than {rest:,} bytes, .* 4,096 tokens .*found {rest:,}"
    ):
        weight_budget(bf16_gguf, rest, context=4096)


def test_a_model_that_llama_cpp_does_not_know(tmp_path: Path) -> None:
    path = shapes.llama(tmp_path / "odd.gguf", architecture="none-such", layers=1)
    with pytest.raises(
        EngineError, match=r"odd\.gguf: llama\.cpp cannot load this model(.|\n)*unknown model architecture"
    ):
        footprint(path, context=512)


def test_a_crash_is_one_clear_error(bf16_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_COMMAND", "import os; os.write(2, b'GGML_ASSERT failed'); os.abort()")
    with pytest.raises(EngineError, match=r"BF16\.gguf: llama\.cpp's process was killed by SIGABRT(.|\n)*GGML_ASSERT"):
        footprint(bf16_gguf, context=512)


MAKING = """\
llama_context:        CPU  output buffer size =     0.02 MiB
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =    1.00 MiB (  4096 cells,   1 layers,  1/1 seqs), K (f16):    0.50 MiB, V (f16):    0.50 MiB
llama_memory_recurrent:        CPU RS buffer size =     0.02 MiB
llama_memory_recurrent: size =    0.02 MiB (     1 cells,   3 layers,  1 seqs  0 rs_seq), R (f32):    0.01 MiB
dsv4:        CPU DSV4 csa state buffer size =     0.50 MiB
dsv4: csa ratio = 4, state = 8 x 64, streams = 1, rs_seq = 0, layers = 2, size =    0.50 MiB
sched_reserve:        CPU compute buffer size =    12.77 MiB
"""


def test_the_log_is_read_whole_or_refused() -> None:
    name = Path("model.gguf")
    loading = "".join(f"model has unused tensor blk.{n}.x (size = {n} bytes) -- ignoring\n" for n in (70, 8))
    found = parse(loading, MAKING, caches=True, name=name)
    assert found.unused == 78
    mebibytes = [size / (1 << 20) for size in (found.cache, found.compute, found.output)]
    assert mebibytes == pytest.approx([1.535, 12.775, 0.025], abs=1e-5)
    for line in MAKING.splitlines():
        if "cache: size" in line or "output" in line or "compute" in line:
            with pytest.raises(EngineError, match=r"model\.gguf: llama\.cpp's log: expected the size of each buffer"):
                parse("", MAKING.replace(line, ""), caches=True, name=name)
    with pytest.raises(EngineError, match="found a new buffer too"):
        parse("", MAKING + "x:  CPU new buffer size =  1.00 MiB\n", caches=True, name=name)
    with pytest.raises(EngineError, match="found no size of the cache"):
        parse(
            "",
            "\n".join(line for line in MAKING.splitlines() if "sched" in line or "output" in line),
            caches=True,
            name=name,
        )


def test_sizes() -> None:
    assert parse_bytes("16GB") == 16 * 10**9
    assert parse_bytes("16 GiB") == 16 << 30
    assert parse_bytes(" 2.40gb ") == 2_400_000_000
    assert parse_bytes("0.5kib") == 512
    assert parse_bytes("1.23456789TB") == 1_234_567_890_000
    assert parse_bytes("700B") == 700
    for text in ("", "16", "16G", "GB", "-1GB", "1e9B", "1,5GB", "16GBit", "0GB", "0.1B", "١GB", "nanGB"):
        with pytest.raises(PlanError, match="memory: expected"):
            parse_bytes(text, "memory")
