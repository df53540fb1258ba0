"""The choice against one by brute force: what every file needs from its tensors, the best of them from the rows."""

from __future__ import annotations

import functools
import importlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import gguf as oracle
import pytest

from quantpress import available, gguf
from quantpress.choose import SPEED_BITS, SPEED_KLD, Choice, choose
from quantpress.choose.offload import GPU_RESERVE, RESERVE
from quantpress.engine.buffers import Buffers
from quantpress.errors import GGUFError, InputError, PlanError
from quantpress.gguf import Writer
from quantpress.memory import buffers, footprint
from quantpress.plan import plan
from quantpress.quantize import quantize

# type → divergence, tokens a second: the larger file is not always the better one, nor the smaller one the faster
ROWS = {
    "Q8_0": (0.0002, 90.0),
    "Q5_K_M": (0.004, 140.0),
    "Q4_0": (0.03, 190.0),
    "Q4_K_M": (0.01, 150.0),
    "Q2_K": (0.2, 170.0),
}
CONTEXT = 2048
MODULE = importlib.import_module("quantpress.choose.choice")
_SIMULATED: dict[tuple[str, int, str], Buffers] = {}  # of all tests: each takes a process


def once(model: gguf.GGUF, *, context: int, cache_type: str, outputs: int) -> Buffers:
    """memory.buffers, which asks llama.cpp here once a model, context and cache type."""
    key = (f"{model.get('general.architecture')} {len(model.tensors)}", context, cache_type.upper())
    if key not in _SIMULATED:
        _SIMULATED[key] = buffers(model, context=context, cache_type=cache_type, outputs=outputs)
    return _SIMULATED[key]


@pytest.fixture(autouse=True)
def simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "buffers", once)


def quantized_files(base: Path, parent: Path) -> Path:
    """A folder with files of the demo model, and a projector that is none."""
    folder = parent / "demo"
    quantize(base, out=folder, plans=[plan(base, type=type) for type in ROWS], effort="fast")
    (folder / "mmproj-demo-F16.gguf").write_bytes(b"GGUF")
    return folder


@pytest.fixture(scope="module")
def quantized(bf16_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_files(bf16_gguf, tmp_path_factory.mktemp("choose"))


def write_results(folder: Path, *, speed: bool = False) -> Path:
    """results.json beside the files, as a release has it."""
    rows: dict[str, Any] = {}
    for type, (kld, tokens) in ROWS.items():
        file = next(folder.glob(f"*-{type}.gguf"))
        rows[type] = {
            "variant": type,
            "file": file.name,
            "bytes": file.stat().st_size,
            "kld_mean": kld,
            "kld_error": kld / 9,
        }
        if speed:
            rows[type]["speed"] = {"tests": [{"test": "pp512", "mean": 1.0}, {"test": "tg128", "mean": tokens}]}
    machine = {"machine": {"cpu": "Acme 9000"}} if speed else {}
    (folder / "results.json").write_text(json.dumps({"version": 1, "variants": rows, **machine}))
    return folder


@pytest.fixture
def release(quantized: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    shutil.copytree(quantized, folder)
    return write_results(folder)


@functools.cache
def tensor_bytes(path: Path) -> dict[str, int]:
    """Bytes of each tensor with its padding, by the gguf package's reader."""
    return {tensor.name: -(-int(tensor.n_bytes) // 32) * 32 for tensor in oracle.GGUFReader(path).tensors}


def memory_needed(path: Path, found: Buffers, layers: int = 0) -> tuple[int, int]:
    """Bytes of memory and of the GPU with so many layers of 7 on it, reserves included, from the tensors' names."""
    sizes = tensor_bytes(path)
    matrix = sizes["token_embd.weight"]  # the output too
    rest = found.cache + found.compute + found.output + RESERVE
    if layers == 0:
        copy = 0 if path.stem.endswith("BF16") else matrix
        return sum(sizes.values()) + copy + rest, 0
    blocks = [f"blk.{block}." for block in range(6)][7 - layers :]
    moved = sum(size for name, size in sizes.items() if name.startswith(tuple(blocks)))
    moved += sizes["output_norm.weight"]
    cache = sum(found.layers[int(block[4])] for block in blocks)
    memory = sum(sizes.values()) - moved - cache + rest
    return memory, moved + matrix + cache + found.compute + GPU_RESERVE


def numbers(folder: Path, context: int = CONTEXT, cache_type: str = "F16") -> Buffers:
    """llama.cpp's for the demo model."""
    with gguf.read(next(folder.glob("*-Q8_0.gguf"))) as model:
        return once(model, context=context, cache_type=cache_type, outputs=1)


def files(folder: Path) -> dict[str, Path]:
    return {type: next(folder.glob(f"*-{type}.gguf")) for type in ROWS}


def type_of(choice: Choice) -> str:
    return re.search(r"-(Q\w+)\.gguf$", choice.file)[1]  # type: ignore[index]


# The rules, by brute force


def test_the_lowest_divergence_that_fits_memory(release: Path) -> None:
    """At the very byte that each file needs, and one less."""
    found = numbers(release)
    needed = {type: memory_needed(path, found)[0] for type, path in files(release).items()}
    for memory in sorted({size - less for size in needed.values() for less in (0, 1)})[1:]:
        expected = min((type for type in needed if needed[type] <= memory), key=lambda one: ROWS[one][0])
        choice = choose(release, memory=memory)
        assert type_of(choice) == expected
        assert (choice.memory.needed, choice.memory.left) == (needed[expected], memory - needed[expected])
        assert (choice.gpu_layers, choice.layers, choice.footprint.context) == (0, 7, CONTEXT)
        assert choice.kld_mean == ROWS[expected][0]
        assert "lowest divergence" in choice.why


def test_most_bits_where_nothing_was_measured(quantized: Path) -> None:
    found = numbers(quantized)
    needed = {type: memory_needed(path, found)[0] for type, path in files(quantized).items()}
    for memory in sorted(needed.values()):
        expected = max((type for type in needed if needed[type] <= memory), key=lambda one: needed[one])
        choice = choose(quantized, memory=memory)
        assert type_of(choice) == expected
        assert choice.kld_mean is None
        assert "most bits a weight of the files that fit; nothing was measured" in choice.why


def test_layers_go_to_the_gpu_as_far_as_it_has_room(release: Path) -> None:
    found = numbers(release)
    for type, path in files(release).items():
        for layers in range(1, 8):
            memory, gpu = memory_needed(path, found, layers)
            choice = choose(path, memory=memory, gpu=gpu)
            assert (type_of(choice), choice.gpu_layers) == (type, 99 if layers == 7 else layers)
            assert [(side.needed, side.left) for side in (choice.memory, choice.gpu) if side] == [(memory, 0), (gpu, 0)]
            less = choose(path, memory=1 << 40, gpu=gpu - 1)
            assert less.gpu_layers == layers - 1
    assert "7 of 7" not in choice.why
    assert "All of it goes on the GPU" in choice.why
    assert choose(path, memory=1 << 40, gpu=1000).why.startswith(
        "It is the only file; nothing was measured. The GPU has no"
    )


def test_the_best_of_both_sides(release: Path) -> None:
    """Quality takes what the two have together, speed what the GPU has alone."""
    found = numbers(release)
    paths = files(release)
    wholly = {type: memory_needed(path, found, 7)[1] for type, path in paths.items()}
    for limit in sorted(wholly.values()):
        expected = min((type for type in wholly if wholly[type] <= limit), key=lambda one: ROWS[one][0])
        fast = choose(release, memory=1 << 40, gpu=limit, prefer="speed")
        assert (type_of(fast), fast.gpu_layers) == (expected, 99)
        assert "files that fit on the GPU wholly" in fast.why
        best = choose(release, memory=1 << 40, gpu=limit)
        assert type_of(best) == "Q8_0"
        on_gpu = [layers for layers in range(1, 8) if memory_needed(paths["Q8_0"], found, layers)[1] <= limit]
        assert min(best.gpu_layers, best.layers) == max(on_gpu)


def test_speed_is_measured_or_the_smallest_that_is_close(release: Path, quantized: Path) -> None:
    found, paths = numbers(release), files(release)
    needed = {type: memory_needed(path, found)[0] for type, path in paths.items()}
    close = [type for type in ROWS if ROWS[type][0] <= SPEED_KLD]
    smallest = min(close, key=lambda one: needed[one])
    choice = choose(release, memory=1 << 40, prefer="speed")
    assert (type_of(choice), "smallest of the files that fit and have a divergence of at most 0.05" in choice.why) == (
        smallest,
        True,
    )
    write_results(release, speed=True)
    for memory in sorted(needed[type] for type in close):
        fitting = [type for type in close if needed[type] <= memory]
        choice = choose(release, memory=memory, prefer="speed")
        assert type_of(choice) == max(fitting, key=lambda one: ROWS[one][1])
        assert choice.speed == ROWS[type_of(choice)][1]
    assert any("measured on Acme 9000" in note for note in choice.notes)
    only = choose(release, memory=needed["Q2_K"], prefer="speed")
    assert (type_of(only), "no file that fits has a divergence of at most" in only.why.lower()) == ("Q2_K", True)
    by_bits = choose(quantized, memory=1 << 40, prefer="speed")
    bits = {type: 8 * path.stat().st_size / weight_count(path) for type, path in paths.items()}
    assert type_of(by_bits) == min((type for type in bits if bits[type] >= SPEED_BITS), key=lambda one: bits[one])


def weight_count(path: Path) -> int:
    return sum(math.prod(map(int, tensor.shape)) for tensor in oracle.GGUFReader(path).tensors)


def test_what_llama_cpp_says_of_a_file(release: Path) -> None:
    """The footprint of memory.py, which is compared there with what llama.cpp allocates."""
    for path in files(release).values():
        choice = choose(path, memory=1 << 40, context=1024, cache_type="q8_0")
        expected = footprint(path, context=1024, cache_type="q8_0", outputs=1)
        assert choice.footprint == expected
        if path.stem.endswith("Q8_0"):
            break  # a process each


# What it says beside


def test_neighbours_and_commands(release: Path) -> None:
    sizes = {type: path.stat().st_size for type, path in files(release).items()}
    choice = choose(release, memory=1 << 40)
    assert (choice.larger, type_of(choice)) == (None, "Q8_0")
    assert choice.smaller is not None
    assert choice.smaller.bytes == max(size for size in sizes.values() if size < choice.bytes)
    assert (choice.smaller.fits, choice.smaller.kld_mean) == (True, ROWS["Q5_K_M"][0])
    tight = choose(release, memory=memory_needed(files(release)["Q5_K_M"], numbers(release))[0])
    assert tight.larger is not None
    assert (tight.larger.file, tight.larger.fits) == (choice.file, False)
    given = choose(release, memory=1 << 40, gpu=1 << 40, context=512, cache_type="q8_0")
    path = str(release / given.file)
    words = " ".join(given.commands["llama-server"])
    assert words.startswith(f"llama-server -m {path} -c 512 -ngl 99 --cache-type-k q8_0 --cache-type-v q8_0")
    assert given.commands["quantpress"][:4] == ["quantpress", "serve", path, "--context"]
    assert json.loads(json.dumps(given.to_dict()))["gpu_layers"] == 99


def test_llama_server_keeps_no_more_copies_of_the_cache_than_there_is_room_for(release: Path) -> None:
    path, found = files(release)["Q4_0"], numbers(release)
    needed = memory_needed(path, found)[0]
    for copies in (0, 1, 31):
        words = choose(path, memory=needed + copies * found.cache + 1).commands["llama-server"]
        assert words[-2:] == ["--ctx-checkpoints", str(copies)]
    assert "--ctx-checkpoints" not in choose(path, memory=needed + 32 * found.cache).commands["llama-server"]


def test_a_split_model_is_one_file(bf16_gguf: Path, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    with gguf.read(bf16_gguf) as model:
        (folder / "demo-BF16").mkdir(parents=True)
        path = folder / "demo-BF16" / "demo-BF16.gguf"
        with Writer(path, model.metadata, model.tensors.values(), 5_000_000) as writer:
            for name in model.tensors:
                writer.write(name, 0, model.data(name))
    paths = writer.paths
    shutil.copy(files(release)["Q4_0"], folder)
    found = choose(folder, memory=1 << 40)
    whole = choose(bf16_gguf, memory=1 << 40)
    assert found.file == "demo-BF16/demo-BF16-00001-of-00003.gguf"
    assert found.bytes == sum(path.stat().st_size for path in paths)
    assert (found.footprint, found.memory) == (whole.footprint, whole.memory)
    assert choose(paths[0], memory=1 << 40).bytes == found.bytes
    with pytest.raises(GGUFError, match="Give the first part"):
        choose(paths[1], memory=1 << 40)
    paths[2].unlink()
    with pytest.raises(GGUFError, match=r"00003-of-00003\.gguf: part 3 of 3: expected a file, found none"):
        choose(folder, memory=1 << 40)


def test_files_of_a_release_that_were_not_fetched(release: Path) -> None:
    (release / "demo-gemma3-Q8_0.gguf").unlink()
    assert type_of(choose(release, memory=1 << 40)) == "Q5_K_M"
    shutil.copy(release / "demo-gemma3-Q2_K.gguf", release / "demo-gemma3-Q3_K_L.gguf")  # no part of it
    assert type_of(choose(release, memory=1 << 40)) == "Q5_K_M"


def test_the_default_context(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "CONTEXT", 1024)
    assert choose(release, memory=1 << 40).footprint.context == 1024


def test_its_own_memory_by_default(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "available_memory", lambda: available.Memory(1 << 30, "a test"))
    choice = choose(release)
    assert (choice.memory.size, choice.memory.source) == (1 << 30, "a test")


# Bad input


def refuses(*words: str, release: object, kind: type[Exception] = InputError, **settings: Any) -> None:
    with pytest.raises(kind) as caught:
        choose(release, **{"memory": 1 << 40, **settings})  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_nothing_fits(release: Path) -> None:
    path = files(release)["Q2_K"]
    least = memory_needed(path, numbers(release))[0]
    shorter = memory_needed(path, numbers(release, 512))[0]
    assert shorter < least
    refuses(f"({least:,} bytes)", "With --context 512 it fits", path.name, release=release, memory=shorter)
    refuses("and 1.00 MB of a GPU", release=release, memory=shorter, gpu=10**6)
    refuses("Its weights alone are more than that", release=release, memory=RESERVE)
    refuses("No shorter context makes it fit", release=release, memory=RESERVE + path.stat().st_size + 100_000)
    assert choose(release, memory=shorter, context=512).file == path.name


def test_settings_that_are_not_possible(release: Path) -> None:
    refuses("prefer: expected quality or speed, found 'cheap'", release=release, prefer="cheap")
    refuses("one of f32, f16", "found q7", release=release, cache_type="q7", kind=PlanError)
    refuses("at most 2,048 tokens, which the model was trained on, found 4,096", release=release, context=4096)
    refuses("memory: expected a number of bytes", release=release, memory=0)
    refuses("memory: expected a number of bytes", release=release, gpu=-1)
    refuses("context: expected 1 to", release=release, context=0, kind=PlanError)


def test_what_is_no_release(tmp_path: Path, release: Path) -> None:
    refuses("release: expected a folder or file that is there", release=tmp_path / "none")
    refuses("release: expected a folder or file that is there", release="none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a-imatrix.gguf").write_bytes(b"GGUF")
    refuses("files: expected GGUF files of a model, found none", release=tmp_path / "empty")
    refuses("magic", release=Path(__file__), kind=GGUFError)


def test_results_that_are_damaged_or_of_other_files(release: Path) -> None:
    results = release / "results.json"
    values = json.loads(results.read_text())
    values["variants"]["Q4_0"]["bytes"] += 1
    results.write_text(json.dumps(values))
    refuses("results.json: variants.Q4_0.bytes: expected", "not the one that was measured", release=release)
    del values["variants"]["Q4_0"]["bytes"]
    results.write_text(json.dumps(values))
    refuses("variants.Q4_0: expected a row of measurements, found KeyError('bytes')", release=release)
    results.write_text("{")
    refuses("results.json: file: expected JSON", release=release)
    results.write_bytes(b"\xff\xfe")
    refuses("results.json: file: expected readable UTF-8", release=release)
    results.write_text('{"score": 3}')  # another program's
    assert choose(release, memory=1 << 40).kld_mean is None


def test_a_damaged_header(release: Path) -> None:
    path = files(release)["Q8_0"]
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\xff" * 8 + data[16:])
    refuses(path.name, "number of tensors", release=release, kind=GGUFError)
