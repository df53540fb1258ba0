"""The instruction set: best first, detected once, overridden by QUANTPRESS_ISA."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantpress import _native

ORDER = ["avx512", "avx2", "baseline"]
NATIVE = Path(__file__).parents[2] / "native"


def isa_in_a_fresh_process(wanted: str) -> subprocess.CompletedProcess[str]:
    code = "from quantpress import _native; print(_native.isa())"
    environment = {**os.environ, "QUANTPRESS_ISA": wanted}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_best_first_and_baseline_always() -> None:
    found = _native.isas()
    assert found == [name for name in ORDER if name in found]
    assert found[-1] == "baseline"
    assert _native.isa() == os.environ.get("QUANTPRESS_ISA", found[0])


@pytest.mark.parametrize("isa", _native.isas())
def test_the_environment_overrides(isa: str) -> None:
    assert isa_in_a_fresh_process(isa).stdout.strip() == isa


def test_an_unknown_instruction_set_is_an_error() -> None:
    run = isa_in_a_fresh_process("sse9")
    assert run.returncode != 0
    assert f"QUANTPRESS_ISA: expected one of {', '.join(_native.isas())} on this machine, found sse9" in run.stderr


def test_nothing_is_chosen_by_an_empty_override() -> None:
    assert isa_in_a_fresh_process("").stdout.strip() == _native.isas()[0]


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_the_compiler_uses_what_the_processor_is_asked_for(isa: str) -> None:
    """A flag more, and an instruction of it could be met on a processor that lacks it."""
    (flags,) = re.findall(rf"set\({isa.upper()} (.*)\)", (NATIVE / "CMakeLists.txt").read_text())
    (test,) = re.findall(rf"const bool {isa} = (.*?);", (NATIVE / "dispatch.cpp").read_text(), re.DOTALL)
    asked = re.findall(r'__builtin_cpu_supports\("(\w+)"\)', test)
    assert re.findall(r"-m(\w+)", flags) == asked
    assert ("${AVX2}" in flags) == test.startswith("avx2 && ")
