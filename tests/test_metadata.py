"""The keys of a quantized file are those that llama.cpp writes, and ours."""

from __future__ import annotations

from pathlib import Path

from quantpress import gguf
from quantpress.gguf import Value, ValueType, Writer
from quantpress.metadata import ImatrixInfo, quantized_metadata
from quantpress.recipes import MIXES
from tests.recipes.oracle import Job, quantized


def test_keys_are_those_of_llama_cpp(bf16_gguf: Path, tmp_path: Path) -> None:
    file_type = MIXES["Q4_K_M"].file_type
    with gguf.read(quantized(bf16_gguf, tmp_path / "q.gguf", Job(file_type))) as theirs, gguf.read(bf16_gguf) as source:
        ours = quantized_metadata(source, file_type, quantized_by=None)
        assert ours == theirs.metadata
        assert list(ours) == list(theirs.metadata)


def test_what_is_added(bf16_gguf: Path) -> None:
    info = ImatrixInfo("m-imatrix.gguf", "calibration.txt", 238, 128)
    with gguf.read(bf16_gguf) as source:
        found = quantized_metadata(source, 15, info, {"general.license": Value.string("mit")}, repo_url="https://a.b/c")
    assert found["general.file_type"] == Value.u32(15)
    assert found["general.quantization_version"] == Value.u32(2)
    assert found["quantize.imatrix.file"] == Value.string("m-imatrix.gguf")
    assert found["quantize.imatrix.dataset"] == Value.string("calibration.txt")
    assert found["quantize.imatrix.entries_count"] == Value.u32(238)
    assert found["quantize.imatrix.chunks_count"] == Value.u32(128)
    assert found["general.quantized_by"] == Value.string("quantpress")
    assert found["general.repo_url"] == Value.string("https://a.b/c")
    assert found["general.license"] == Value.string("mit")


def test_what_an_imatrix_does_not_say_is_left_out(bf16_gguf: Path) -> None:
    with gguf.read(bf16_gguf) as source:
        found = quantized_metadata(source, 15, ImatrixInfo("old.dat", None, 7, 0))
    assert {key for key in found if "imatrix" in key} == {"quantize.imatrix.file", "quantize.imatrix.entries_count"}


def test_what_is_dropped_and_overridden(tmp_path: Path) -> None:
    before = {
        "general.architecture": Value.string("llama"),
        "general.quantized_by": Value.string("somebody"),
        "quantize.imatrix.file": Value.string("old.dat"),
        "general.tags": Value.array(ValueType.STRING, ["a", "b"]),
        "general.alignment": Value.u32(64),
    }
    with Writer(tmp_path / "m.gguf", before, []):
        pass
    with gguf.read(tmp_path / "m.gguf") as source:
        found = quantized_metadata(source, 7, extra=[("general.tags", Value.string("c"))])
    assert "quantize.imatrix.file" not in found
    assert found["general.quantized_by"] == Value.string("quantpress")
    assert found["general.tags"] == Value.string("c")
    assert found["general.alignment"] == Value.u32(64)
