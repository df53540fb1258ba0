"""The numbers of results.json belong to the bytes, and the pages show them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.check import Finding, check
from tests.check.small import Q4_K_M, Q8_0, added, edit, record, resize


def test_numbers_of_other_bytes(folder: Path, one: Callable[..., Finding]) -> None:
    edit(folder / "results.json", lambda results: results["variants"]["Q8_0"].update(sha256=["0" * 64]))
    record(folder)
    found = one()
    assert (found.severity, found.file) == ("error", Q8_0)
    assert "measured on other bytes" in found.what


def test_another_size(folder: Path, one: Callable[..., Finding]) -> None:
    edit(folder / "results.json", lambda results: results["variants"]["BF16"].update(bytes=380_000))
    resize(folder)
    assert re.search(r"bytes: expected [\d,]+, found 380,000", one().what)


def test_no_number(folder: Path, made: Path) -> None:
    edit(folder / "results.json", lambda results: results["variants"]["Q8_0"].update(kld_mean=float("nan")))
    record(folder)
    found = [finding for finding in check(folder, fast=True) if finding.severity == "error"]
    assert [(finding.file, finding.what) for finding in found] == [
        (Q8_0, "results.json: kld_mean: expected a number, found nan")
    ]


def test_a_row_that_is_missing(folder: Path, made: Path) -> None:
    edit(folder / "results.json", lambda results: results["variants"].pop("Q8_0"))
    record(folder)
    found = added(folder, made)
    assert [(finding.severity, finding.file) for finding in found] == [("error", "results.json"), ("error", Q8_0)]


def test_no_results(folder: Path, made: Path) -> None:
    (folder / "results.json").write_text("[]")
    found = [finding for finding in check(folder, fast=True) if finding.severity == "error"]
    assert {finding.file for finding in found} == {"results.json"}


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_words_may_be_added(folder: Path, one: Callable[..., Finding]) -> None:
    (folder / "README.md").write_text(card(folder) + "\nThank you.\n")
    found = one()
    assert (found.severity, found.file) == ("note", "README.md")
    assert "edited" in found.what


@pytest.mark.parametrize(("key", "factor"), [("perplexity", 1), ("kld_mean", 1), ("same_top", 100)])
def test_numbers_may_not_be_changed(folder: Path, one: Callable[..., Finding], key: str, factor: int) -> None:
    row = json.loads((folder / "results.json").read_text())["variants"]["Q4_K_M"]
    lines = card(folder).splitlines()
    [number] = [i for i, line in enumerate(lines) if line.startswith("|") and Q4_K_M in line]
    value = factor * row[key]
    shown = [word for word in re.findall(r"\d+\.\d+(?:e-\d+)?", lines[number]) if abs(float(word) / value - 1) < 0.06]
    for word in shown:
        lines[number] = lines[number].replace(word, "7.7777")
    (folder / "README.md").write_text("\n".join(lines))
    record(folder, "README.md")
    found = one()
    assert (found.severity, found.file) == ("error", "README.md")
    assert f"{Q4_K_M}: expected {key}" in found.what


def test_a_file_that_the_page_leaves_out(folder: Path, one: Callable[..., Finding]) -> None:
    lines = [line for line in card(folder).splitlines() if not (line.startswith("|") and Q8_0 in line)]
    (folder / "README.md").write_text("\n".join(lines))
    record(folder, "README.md")
    assert "expected a row of the table" in one().what


def test_no_card(folder: Path, one: Callable[..., Finding]) -> None:
    edit(folder / "release.json", lambda facts: facts["files"].pop("README.md"))
    (folder / "README.md").unlink()
    found = one()
    assert (found.severity, found.file) == ("error", "README.md")


def test_every_language_is_read(folder: Path, one: Callable[..., Finding]) -> None:
    page = folder / "README.zh.md"
    page.write_text(page.read_text().replace("\n| [tiny-Q8_0.gguf]", "\n[tiny-Q8_0.gguf]"))
    record(folder, page.name)
    assert one().file == page.name
