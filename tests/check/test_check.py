"""A sound release has nothing but notes; each damage is told, once, and nothing else with it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpress import gguf
from quantpress.check import Finding, check
from quantpress.errors import InputError
from quantpress.gguf import Metadata, Value
from quantpress.imatrix import Imatrix, write
from tests.check.small import (
    BF16,
    Q4_K_M,
    Q8_0,
    TEMPLATE,
    added,
    edit,
    of_the_sound_one,
    record,
    rename,
    resize,
    rewrite,
)

NOTES = {"parts, which Ollama cannot pull", "general.license", "general.base_model.count", "leaves out tools"}


def test_a_sound_release_has_only_notes(made: Path) -> None:
    found = check(made)
    assert {finding.severity for finding in found} == {"note"}
    assert all(any(note in finding.what for note in NOTES) for finding in found), found
    assert found == of_the_sound_one(made)


@pytest.mark.parametrize(("name", "content"), [("release.json", None), ("release.json", "{"), ("release.json", "{}")])
def test_what_is_no_release(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"release\.json: .*expected"):
        check(folder)


@pytest.mark.parametrize("name", ["../other.gguf", "/etc/hostname", "a\\b"])
def test_a_path_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    edit(folder / "release.json", lambda facts: facts["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(InputError, match="a path inside the folder"):
        check(folder)


def test_a_changed_byte(folder: Path, one: Callable[..., Finding]) -> None:
    data = bytearray((folder / Q4_K_M).read_bytes())
    data[-1] ^= 1
    (folder / Q4_K_M).write_bytes(data)
    found = one()
    assert (found.severity, found.file) == ("error", Q4_K_M)
    assert "SHA-256 differs" in found.what


def test_a_truncated_file(folder: Path, one: Callable[..., Finding]) -> None:
    (folder / Q8_0).write_bytes((folder / Q8_0).read_bytes()[:1000])
    assert re.match(r"1,000 bytes, [\d,]+ were written", one().what)


def test_a_missing_part(folder: Path, one: Callable[..., Finding]) -> None:
    (folder / BF16.replace("00001-of", "00002-of")).unlink()
    found = one()
    assert (found.file, found.what) == (BF16.replace("00001-of", "00002-of"), "missing")


def test_a_part_of_another_model(folder: Path, one: Callable[..., Finding]) -> None:
    shutil.copy(folder / BF16, folder / BF16.replace("00001-of", "00002-of"))
    record(folder, BF16.replace("00001-of", "00002-of"))
    nbytes = 2 * (folder / BF16).stat().st_size
    edit(folder / "results.json", lambda results: results["variants"]["BF16"].update(bytes=nbytes))
    resize(folder)
    found = one()
    assert (found.severity, found.file) == ("error", BF16)
    assert "split.no: expected 1, found 0" in found.what


@pytest.mark.parametrize("name", [f"{Q8_0}.partial", ".tiny-Q8_0.gguf.0.partial", "plots/x.svg.incomplete"])
def test_half_written(folder: Path, one: Callable[..., Finding], name: str) -> None:
    (folder / name).touch()
    found = one()
    assert (found.severity, found.file, found.what) == ("error", name, "half-written")


def test_foreign_files(folder: Path, made: Path) -> None:
    (folder / "notes.txt").touch()
    (folder / "preset.ini").touch()
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x.incomplete").touch()
    (folder / "LICENSE").touch()
    edit(folder / "release.json", lambda facts: facts.update(unlisted={"old.gguf": facts["files"][Q8_0]}))
    shutil.copy(folder / Q8_0, folder / "old.gguf")
    found = added(folder, made)
    assert [(finding.severity, finding.file) for finding in found] == [
        ("error", "preset.ini"), ("warning", "notes.txt"), ("warning", "old.gguf"), ("warning", "preset.ini"),
    ]  # fmt: skip
    assert "earlier run" in found[2].what


def test_two_files_of_one_label(folder: Path, one: Callable[..., Finding]) -> None:
    rename(folder, Q8_0, "tiny-AUTO-Q4_K_M.gguf")
    rewrite(folder / "tiny-AUTO-Q4_K_M.gguf", lambda keys: keys.update({"general.file_type": Value.u32(15)}))
    record(folder, "tiny-AUTO-Q4_K_M.gguf")
    resize(folder)
    found = one()
    assert found.severity == "error"
    assert ":Q4_K_M: tiny-Q4_K_M.gguf, tiny-AUTO-Q4_K_M.gguf" in found.what


def test_a_tag_that_another_name_ends_in(folder: Path, one: Callable[..., Finding]) -> None:
    """llama-server's search is not anchored: `:F16` finds BF16, too."""
    rename(folder, Q8_0, "tiny-F16.gguf")
    rewrite(folder / "tiny-F16.gguf", lambda keys: keys.update({"general.file_type": Value.u32(1)}))
    record(folder, "tiny-F16.gguf")
    found = one()
    assert (found.severity, found.file) == ("warning", "tiny-F16.gguf")
    assert f":F16 may take {BF16}" in found.what


def test_names_that_nobody_can_read(folder: Path, made: Path) -> None:
    rename(folder, Q8_0, "tiny-my mtp-best.gguf")
    found = {finding.what: finding.severity for finding in added(folder, made)}
    assert list(found.values()) == ["error", "warning", "warning"]
    words = ["for no model", "other letters", "no quantization label"]
    assert all(word in what for word, what in zip(words, found, strict=True)), found


def test_a_label_of_another_type(folder: Path, one: Callable[..., Finding]) -> None:
    rename(folder, Q8_0, "tiny-Q6_K.gguf")
    found = one()
    assert (found.severity, found.file) == ("error", "tiny-Q6_K.gguf")
    assert found.what == "its name says Q6_K, general.file_type Q8_0"


def test_without_q4_k_m_the_default_is_told(folder: Path, one: Callable[..., Finding]) -> None:
    rename(folder, Q4_K_M, "tiny-Q4_K_M_AUTO.gguf")
    found = one()
    assert (found.severity, found.file) == ("note", Q8_0)
    assert "without a tag" in found.what


@pytest.mark.parametrize(("size", "severity"), [(201 * 10**9, "warning"), (501 * 10**9, "error")])
def test_limits_of_the_hub(folder: Path, made: Path, size: int, severity: str) -> None:
    edit(folder / "release.json", lambda facts: facts["files"]["tiny-imatrix.gguf"].update(bytes=size))
    found = [finding for finding in check(folder, fast=True) if "the Hub" in finding.what]
    assert [(finding.severity, finding.file) for finding in found] == [(severity, "tiny-imatrix.gguf")]


KEYS: dict[str, tuple[Callable[[Metadata], Any], str, str]] = {
    "no quantization version": (
        lambda keys: keys.pop("general.quantization_version"), "error", "expected 2, found None",
    ),
    "no file type": (lambda keys: keys.pop("general.file_type"), "error", "general.file_type: expected"),
    "nobody made it": (lambda keys: keys.pop("general.quantized_by"), "warning", "general.quantized_by"),
    "another repository": (
        lambda keys: keys.update({"general.repo_url": Value.string("https://huggingface.co/a/b")}),
        "warning", "expected https://huggingface.co/acme/tiny-GGUF, found https://huggingface.co/a/b",
    ),
    "no imatrix": (lambda keys: keys.pop("quantize.imatrix.file"), "warning", "tiny-imatrix.gguf is in the release"),
    "an imatrix of elsewhere": (
        lambda keys: keys.update({"quantize.imatrix.file": Value.string("other-imatrix.gguf")}),
        "warning", "which is not in the release",
    ),
    "a path of somebody": (
        lambda keys: keys.update({"quantize.imatrix.dataset": Value.string("/home/ann/text.txt")}),
        "warning", "a path of somebody's machine",
    ),
    "another template": (
        lambda keys: keys.update({TEMPLATE: Value.string("{{ messages }}")}), "error", f"tiny-BF16/.*: {TEMPLATE}$",
    ),
    "another context": (
        lambda keys: keys.update({"gemma3.context_length": Value.u32(9)}), "error", r"gemma3\.context_length$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_keys(folder: Path, one: Callable[..., Finding], name: str) -> None:
    change, severity, what = KEYS[name]
    rewrite(folder / Q8_0, change)
    record(folder, Q8_0)
    resize(folder)
    found = one()
    assert (found.severity, found.file) == (severity, Q8_0)
    assert re.search(what, found.what)


def test_an_imatrix_of_another_model(folder: Path, one: Callable[..., Finding]) -> None:
    other = {"other.weight": np.ones((1, 32), np.float32)}, {"other.weight": np.array([512])}
    write(Imatrix(*other, datasets=("text.txt",), chunk_count=1, chunk_size=512), folder / "tiny-imatrix.gguf")
    record(folder, "tiny-imatrix.gguf")
    found = one()
    assert (found.severity, found.file) == ("error", "tiny-imatrix.gguf")


def test_a_context_length_that_no_file_has(folder: Path, made: Path) -> None:
    """The reference is the float model; without it the files must agree with one another."""
    shutil.rmtree(folder / "tiny-BF16")
    edit(
        folder / "release.json",
        lambda facts: [facts["files"].pop(name) for name in list(facts["files"]) if "BF16" in name],
    )
    edit(folder / "release.json", lambda facts: facts["settings"].update(variants=["Q8_0", "Q4_K_M"]))
    edit(folder / "results.json", lambda results: results["variants"].pop("BF16"))
    for name in (Q8_0, Q4_K_M):
        rewrite(folder / name, lambda keys: keys.pop("gemma3.context_length"))
    record(folder, Q8_0, Q4_K_M)
    resize(folder)
    found = [finding for finding in check(folder, fast=True) if finding.severity != "note"]
    assert [(finding.severity, finding.file) for finding in found] == [("warning", Q4_K_M)]
    assert "gemma3.context_length" in found[0].what


def test_what_llama_cpp_says(folder: Path, made: Path) -> None:
    """A model that it refuses, one whose predictions are no numbers; the third is sound."""
    rewrite(folder / Q4_K_M, lambda keys: keys.update({"gemma3.block_count": Value.u32(3)}))
    with gguf.read(folder / Q8_0) as file:
        tensor = file.tensors["blk.1.ffn_down.weight"]
        assert tensor.type.name == "Q8_0"
    data = np.fromfile(folder / Q8_0, np.uint8)
    data[tensor.offset : tensor.offset + 2] = (0x00, 0x7E)  # a block's scale, float16
    data.tofile(folder / Q8_0)
    record(folder, Q8_0, Q4_K_M)
    refused, other_key, nan = sorted(added(folder, made, fast=False), key=lambda finding: (finding.file, finding.what))
    assert (nan.severity, nan.file, nan.what) == ("error", Q8_0, "its predictions are NaN or infinite")
    assert "gemma3.block_count" in other_key.what
    assert (refused.severity, refused.file) == ("error", Q4_K_M)
    assert refused.what.startswith("llama.cpp does not run it: ")
    assert str(folder) not in refused.what
