from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.card import _with_error, frontier, write_card
from quantpress.gguf import read
from quantpress.sizes import human_size
from tests.oracle import models

MEASURED = {
    "perplexity": 41.61, "perplexity_error": 1.2, "kld_mean": 0.004, "kld_error": 0.0001, "kld_p99": 0.03,
    "kld_p999": 0.1, "same_top": 0.94, "tokens": 4080,
}  # fmt: skip


def results(allocation: dict[str, Any]) -> dict[str, Any]:
    """results.json of a release with a mix and an automatic variant."""
    row = {**MEASURED, "bytes": 4_000_000, "split": False}
    variants = {
        "Q4_K_M": {**row, "file": "m-Q4_K_M.gguf"},
        "AUTO-4bpw": {**row, "file": "m-AUTO-4bpw.gguf", "bytes": 3_900_000, "allocation": allocation},
    }
    return {"model": "m", "base": {**MEASURED, "kld_mean": 0.0}, "variants": variants}


def card(tmp_path: Path, values: dict[str, Any], **pictures: str) -> list[str]:
    """The lines of its page."""
    facts = {
        "quantpress": "0",
        "engine": {"llama_cpp_python": "0"},
        "settings": {"repository": None},
    }
    texts = {"calibration_text": "`c.txt`", "evaluation_text": "`e.txt`"}
    with read(models.save(tmp_path / "m.gguf")) as base:
        page = write_card(tmp_path, values, facts, base, imatrix="m-imatrix.gguf", pictures=pictures, **texts)
    return page.read_text().splitlines()


def gate(ratio: float) -> dict[str, Any]:
    own, other = {**MEASURED, "kld_mean": 0.004 * ratio}, MEASURED
    return {"text": "e.txt", "plan": own, "reference": other, "passed": ratio < 1}


def test_a_plan_that_won_stands_beside_its_reference(tmp_path: Path) -> None:
    allocation = {"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": gate(0.73)}
    lines = card(tmp_path, results(allocation), **{"AUTO-4bpw": "plots/a.svg", "frontier": "plots/frontier.svg"})
    assert "| **AUTO-4bpw** | 3.90 MB | 0.00292 ± 0.00010 | 0.0300 | 0.1000 | 94.00 % | 41.6100 |" in lines
    assert "| IQ4_XS | 3.89 MB | 0.00400 ± 0.00010 | 0.0300 | 0.1000 | 94.00 % | 41.6100 |" in lines
    assert "- AUTO-4bpw has 0.73 of the divergence of IQ4_XS." in lines
    assert "![Types of AUTO-4bpw](plots/a.svg)" in lines
    assert "![Size and divergence of every file](plots/frontier.svg)" in lines
    [row] = [line for line in lines if "m-AUTO-4bpw.gguf]" in line]
    assert row.endswith("| Automatic: types by measured damage; better than IQ4_XS |")


def test_a_plan_that_lost_is_reported_as_such(tmp_path: Path) -> None:
    lines = card(tmp_path, results({"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": gate(1.2)}))
    assert "- AUTO-4bpw was no better than IQ4_XS: its file has the types of IQ4_XS." in lines
    assert any(line.startswith("| **AUTO-4bpw** |  | 0.00480") for line in lines)  # no size: there is no such file
    [row] = [line for line in lines if "m-AUTO-4bpw.gguf]" in line]
    assert row.endswith("| Automatic, but no plan was better than IQ4_XS: the types of IQ4_XS |")


def test_a_plan_without_a_reference_or_a_measurement(tmp_path: Path) -> None:
    alone = {**gate(0.5), "reference": None}
    lines = card(tmp_path, results({"reference": None, "reference_bytes": None, "gate": alone}))
    assert "- AUTO-4bpw: no mix of llama.cpp can be made that is as small." in lines
    lines = card(tmp_path, results({"reference": "IQ4_XS", "reference_bytes": 3_890_000, "gate": None}))
    assert "Nothing was measured (budget 0): they were not compared with other mixes." in " ".join(lines)
    assert not any(line.startswith("| plan | size |") for line in lines)


def test_without_automatic_variants_nothing_is_said_of_them(tmp_path: Path) -> None:
    values = results({})
    del values["variants"]["AUTO-4bpw"]
    assert "utomatic" not in "\n".join(card(tmp_path, values))


def test_frontier_keeps_what_nothing_beats() -> None:
    rows = [{"bytes": size, "kld_mean": kld} for size, kld in ((5, 0.1), (4, 0.2), (4, 0.15), (3, 0.12), (2, 0.5))]
    assert [row["bytes"] for row in frontier(rows)] == [5, 3, 2]


def test_sizes_are_decimal() -> None:
    assert [human_size(size) for size in (2_489_757_856, 13_623_968, 9_999, 7)] == [
        "2.49 GB",
        "13.62 MB",
        "10.00 kB",
        "7 B",
    ]


def test_a_value_has_the_decimals_of_its_error() -> None:
    assert _with_error(0.00018442, 0.000002008) == "0.0001844 ± 0.0000020"
    assert _with_error(43.3279, 1.2998) == "43.3 ± 1.3"
    assert _with_error(0.0, 0.0) == "0"
