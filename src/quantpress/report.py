"""report.html: the release on one page of its own, for people who look before they download.

A slider for the memory shows which file fits; plots and table answer to it. It loads nothing: data, style and script
are inside, pictures too (as images, so that neither their ids clash nor a name in them becomes a part of the page). A
policy in its head forbids all loads, and every script but its own, whose hash it names. Names come into it as text that
Jinja escapes, and in JSON without `<`. A file of `templates/report` is a language.

Numbers are written as on the card, from results.json; the script only picks, sorts and draws.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from quantpress.card.markdown import command
from quantpress.card.room import LEAST, PART
from quantpress.card.rows import make_rows, noisy
from quantpress.files import write_text
from quantpress.pictures import COVERAGE, FRONTIER, SPEED, shown_tests
from quantpress.plots import kind_of
from quantpress.sizes import DECIMAL

__all__ = ["report_data", "write_report"]

_STOPS = 160  # of the slider, at most about so many


def write_report(
    folder: Path, results: Mapping[str, Any], facts: Mapping[str, Any], pictures: Mapping[str, str]
) -> Path:
    """Write report.html of a release folder and return its path; raises OutputError, DiskFullError.

    `results` is results.json, `facts` what release.json says beside the files, `pictures` those of pictures.py; the
    plan maps among them are read from `folder`.
    """
    data = report_data(results, facts)
    templates = files("quantpress") / "templates"
    script = (templates / "report.js").read_text(encoding="utf-8")
    maps = {name: folder / path for name, path in pictures.items() if name not in (COVERAGE, FRONTIER, SPEED)}
    context = {
        "data": data,
        "say": lambda key, **values: data["phrases"]["en"][key].format(**data["words"], **values),
        "style": Markup((templates / "report.css").read_text(encoding="utf-8")),  # noqa: S704 (ours)
        "script": Markup(script),  # noqa: S704 (ours)
        "script_hash": _base64(hashlib.sha256(script.encode()).digest()),
        "maps": {name: f"data:image/svg+xml;base64,{_base64(path.read_bytes())}" for name, path in maps.items()},
    }
    environment = Environment(
        loader=PackageLoader("quantpress"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    page = folder / "report.html"
    write_text(page, environment.get_template("report.html.j2").render(context))
    return page


def report_data(results: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page is made of and its script works with: files (largest first), slider, phrases by language.

    A file `takes` bytes of memory, and `wants` one that leaves free what card/room.py says; sizes are in bytes,
    divergences in nats a token, `rates` in tokens a second.
    """
    repository = facts["settings"]["repository"]
    rows = make_rows(results)
    found = [_file(row, repository) for row in rows]
    memory = next((row["memory"] for row in results["variants"].values() if "memory" in row), None)
    return {
        "words": {
            "model": results["model"],
            "tokens": f"{results['base']['tokens']:,}",
            "context": f"{memory['context']:,}" if memory else "",
            "cache": memory["cache_type"] if memory else "",
            "part": f"{100 / PART:g}",
            "least": _binary(LEAST),
            **{key: results.get("machine", {}).get(key, "") for key in ("cpu", "threads", "backend")},
            "quantpress": facts["quantpress"],
        },
        "repository": repository,
        "measured": all(file["measured"] for file in found),
        "reserve": {"least": LEAST, "part": PART},
        "slider": _slider([file["wants"] for file in found]),
        "unit": next(row for row in DECIMAL if max(file["bytes"] for file in found) >= row[0] or row[0] == 1),
        "tests": shown_tests(results),
        "noisy": noisy(rows),
        "files": found,
        "phrases": _phrases(),
    }


def _file(row: Mapping[str, Any], repository: str | None) -> dict[str, Any]:
    tests = {test["test"]: test for test in row.get("speed", {}).get("tests", ())}
    takes = row["memory"]["total"] if "memory" in row else row["bytes"] + row["bytes"] // 4
    parts = f"{PurePosixPath(row['file']).parent}/*"
    download = ["hf", "download", repository or "", "--include", parts if row["split"] else row["file"]]
    return {
        "name": row["variant"],
        "file": row["file"],
        "kind": kind_of(row["variant"], row),
        "better": row["better"],
        "bytes": row["bytes"],
        "kld": row["kld_mean"],
        "error": row["kld_error"],
        "p99": row["kld_p99"],
        "top": row["same_top"],
        "perplexity": row["perplexity"],
        "measured": "memory" in row,
        "takes": takes,
        "wants": max(takes + LEAST, -(-takes * PART // (PART - 1))),
        "rates": {
            name: {"mean": test["mean"], "deviation": test["deviation"], "text": row["rates"][name]["text"]}
            for name, test in tests.items()
        },
        "text": {**{key: row[key] for key in ("size", "kld", "p99", "top", "ppl")}, "takes": _binary(takes)},
        "command": command(*download, "--local-dir", ".") if repository else row["file"],
    }


def _binary(nbytes: int) -> str:
    """Memory as it is sold, in powers of two."""
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 1 << 30 else f"{nbytes / 2**20:.1f} MiB"


def _slider(wants: Sequence[int]) -> dict[str, int]:
    """From just below what the most modest file wants to just above what the largest does, in steps of a power of two.

    It starts where half of the files fit.
    """
    span = max(max(wants) - min(wants), max(wants) // 8)
    step = 1 << max(0, (span // _STOPS).bit_length())
    middle = sorted(wants)[(len(wants) - 1) // 2]
    low, high = (min(wants) - 1) // step * step, -(-max(wants) // step) * step + step
    return {"low": low, "high": high, "step": step, "start": -(-middle // step) * step}


def _phrases() -> dict[str, dict[str, str]]:
    """By language, English first."""
    tables = [file for file in (files("quantpress") / "templates" / "report").iterdir() if file.name.endswith(".yaml")]
    tables.sort(key=lambda file: (file.name != "en.yaml", file.name))
    return {file.name.removesuffix(".yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in tables}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
