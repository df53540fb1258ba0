"""`quantpress choose`: what it prints and refuses. What it chooses is tested in tests/choose/."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path

import pytest

from quantpress.choose import choose
from quantpress.errors import PlanError
from tests.choose.test_choice import MODULE, once, quantized_files, write_results
from tests.commands import runs

run, fails = partial(runs.run, "choose"), partial(runs.fails, "choose")


@pytest.fixture(scope="module")
def release(bf16_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(quantized_files(bf16_gguf, tmp_path_factory.mktemp("choose-command")), speed=True)


@pytest.fixture(autouse=True)
def simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "buffers", once)


def test_it_prints_the_choice(release: Path) -> None:
    printed = run(release, "--memory", "2GB", "--gpu", "1.08GB").stdout
    best = choose(release, memory=2 * 10**9, gpu=1_080_000_000)
    lines = printed.splitlines()
    assert lines[0].startswith(f"{best.file}: ")
    assert lines[0].endswith("KLD 0.0002, 90.0 tokens/s")
    assert lines[1] == best.why
    assert f"layers     {best.gpu_layers} of 7 on the GPU: -ngl {best.gpu_layers}" in printed
    assert "memory     " in printed
    assert "2.00 GB, 1." in printed
    assert "(as given)" in printed
    assert "larger     none" in printed
    assert "smaller    demo-gemma3-Q5_K_M.gguf" in printed
    assert [shlex.split(line) for line in lines if line.startswith(("llama-server", "quantpress"))] == [
        *best.commands.values()
    ]
    assert [line[2:] for line in lines if line.startswith("- ")] == best.notes


def test_its_own_memory_is_named(release: Path) -> None:
    printed = run(release, "--prefer", "speed", "--context", "2048", "--kv", "F16").stdout
    assert printed.startswith("demo-gemma3-Q4_0.gguf")
    assert "GPU" not in printed
    assert any(source in printed for source in ("/proc/meminfo", "control group", "all of this machine's memory"))


def test_json(release: Path) -> None:
    values = json.loads(run(release, "--memory", "2GB", "--json").stdout)
    assert values == choose(release, memory=2 * 10**9).to_dict()
    assert (values["gpu_layers"], values["memory"]["size"], values["smaller"]["fits"]) == (0, 2 * 10**9, True)


def test_sizes_without_a_unit(release: Path) -> None:
    for option in ("memory", "gpu"):
        assert f"{option}: expected a number with a unit" in fails(PlanError, release, f"--{option}", "16")
