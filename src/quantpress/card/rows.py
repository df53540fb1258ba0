"""The rows of the page's tables: those of results.json, with what follows from them; no words yet.

Which file beats which is decided by bytes and mean divergence. A file is marked only if another is smaller and closer
to the original beyond both standard errors, so that noise condemns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from quantpress.benchmark import REFERENCE
from quantpress.card.numbers import percent, rate, with_deviation, with_error
from quantpress.card.room import fits_in
from quantpress.formats import TYPES
from quantpress.gguf import GGUF
from quantpress.names import hub_label, stem
from quantpress.recipes import ENLARGED, is_stock
from quantpress.sizes import human_size

__all__ = ["better", "first_tests", "frontier", "gates", "make_rows", "noisy", "pairs", "pick", "speeds", "type_groups"]

_DEFAULT = "Q4_K_M"  # what llama.cpp downloads without a tag
_NOISY = 0.2  # of a speed: what it differs by from run to run on a machine without other work is a few percent
_LAYER = re.compile(r"^blk\.\d+\.")


def make_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The variants of results.json, largest first, with their numbers as text."""
    rows = [_row(name, row, results["model"]) for name, row in results["variants"].items()]
    for row in rows:
        row["better"] = better(row, rows)
    speeds(rows)
    return sorted(rows, key=lambda row: -int(row["bytes"]))


def _row(name: str, row: Mapping[str, Any], model: str) -> dict[str, Any]:
    fits = fits_in(row["memory"]["total"]) if "memory" in row else None
    return {
        **row,
        "variant": name,
        "size": human_size(row["bytes"]),
        "kld": with_error(row["kld_mean"], row["kld_error"]),
        "p99": f"{row['kld_p99']:.3g}",
        "top": percent(row["same_top"]),
        "ppl": f"{row['perplexity']:.4f}",
        "parts": len(row.get("sha256", ())),
        "fits": f"{fits} GB" if fits else "–",
        "takes": human_size(row["memory"]["total"]) if "memory" in row else None,
        "target": f"{PurePosixPath(row['file']).parent}" if row["split"] else row["file"],
        "tag": _tag(row["file"], model),
        "label": hub_label(row["file"]),
        "stock": is_stock(name),
    }


def _tag(file: str, model: str) -> str | None:
    """What stands for the file in `user/name:TAG`: the rest of its name after the model's."""
    name = stem(file)
    return name.removeprefix(f"{model}-") if name.startswith(f"{model}-") else None


def better(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The variant with the lowest divergence of those that are smaller and, beyond both errors, closer; else None."""
    limit = row["kld_mean"] - row["kld_error"]
    found = [one for one in rows if one["bytes"] < row["bytes"] and one["kld_mean"] + one["kld_error"] < limit]
    return str(min(found, key=lambda one: one["kld_mean"])["variant"]) if found else None


def frontier(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows than which none is both no larger and closer to the original; largest first."""
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], row["kld_mean"])):
        if not kept or row["kld_mean"] < kept[-1]["kld_mean"]:
            kept.append(row)
    return kept[::-1]


def pick(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The file that the commands show: llama.cpp's own default, else the middle of the list."""
    return next((row for row in rows if row["variant"] == _DEFAULT), rows[len(rows) // 2])


def pairs(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """The variants with larger embedding and output, each with the mix it is derived from if that is here too."""
    by_name = {row["variant"]: row for row in rows}
    return [(row, by_name.get(ENLARGED[row["variant"]])) for row in rows if row["variant"] in ENLARGED]


def speeds(rows: Sequence[dict[str, Any]]) -> None:
    """Give rows that have `speed` their `rates`: by test, the mean ± deviation and the ratio to Q4_0's (or None)."""
    means = {
        row["variant"]: {test["test"]: test["mean"] for test in row["speed"]["tests"]} for row in rows if "speed" in row
    }
    reference = means.get(REFERENCE, {})
    for row in rows:
        row["rates"] = {}
        for test in row.get("speed", {}).get("tests", ()):
            ratio = test["mean"] / reference[test["test"]] if reference.get(test["test"]) else None
            text = with_deviation(test["mean"], test["deviation"]) if test["repeats"] > 1 else rate(test["mean"])
            row["rates"][test["test"]] = {"text": text, "short": rate(test["mean"]), "ratio": ratio}


def noisy(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the speeds of most files differ so much from run to run that they compare nothing."""
    tests = [test for row in rows for test in row.get("speed", {}).get("tests", ()) if test["repeats"] > 1]
    shares = [test["deviation"] / test["mean"] for test in tests if test["mean"] > 0]
    return median(shares) > _NOISY if shares else False


def first_tests(tests: Iterable[str], sorts: Iterable[str]) -> list[str]:
    """The first test of each sort ("pp", "tg"), as far as there is one."""
    known = list(tests)
    found = (next((test for test in known if test.startswith(sort)), None) for sort in sorts)
    return [test for test in found if test]


def gates(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The automatic plans that were compared: each with the lines of its table, and what follows from them."""
    return [_gate(row) for row in rows if row.get("allocation", {}).get("gate")]


def _gate(row: dict[str, Any]) -> dict[str, Any]:
    found = row["allocation"]
    gate, reference = found["gate"], found["reference"]
    sides = [_side(row["variant"], row["bytes"] if gate["passed"] else None, gate["plan"])]
    if reference is not None:
        sides.append(_side(reference, found["reference_bytes"], gate["reference"]))
    ratio = gate["plan"]["kld_mean"] / gate["reference"]["kld_mean"] if reference and gate["passed"] else None
    return {"variant": row["variant"], "reference": reference, "passed": gate["passed"], "ratio": ratio, "sides": sides}


def _side(name: str, nbytes: int | None, measured: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; the size of a plan that was given up is of no interest."""
    kld = with_error(measured["kld_mean"], measured["kld_error"])
    return {**measured, "name": name, "size": "" if nbytes is None else human_size(nbytes), "kld": kld}


def type_groups(tensors: Mapping[str, str], model: GGUF) -> list[dict[str, Any]]:
    """What a plan (tensor to name of a type) gives which type, largest group first; for `types` of a row.

    Each group: `type`, `bits_per_weight`, `weights`, and `tensors`, how many of each kind: {"attn_q": 34, …}.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, type in tensors.items():
        empty = {"type": type, "bits_per_weight": TYPES[type].bits_per_weight, "weights": 0, "tensors": {}}
        group = groups.setdefault(type, empty)
        kind = _LAYER.sub("", name).removesuffix(".weight")
        group["weights"] += model.tensors[name].weights
        group["tensors"][kind] = group["tensors"].get(kind, 0) + 1
    return sorted(groups.values(), key=lambda group: -int(group["weights"]))
