"""What the templates are given in every language: numbers, names, commands, and what shows them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantpress.benchmark import REFERENCE
from quantpress.card import backends, rows
from quantpress.card.making import commands, text_facts
from quantpress.card.markdown import address, command, fenced, plain
from quantpress.card.model import about_model, prompt
from quantpress.card.numbers import percent, with_error
from quantpress.card.room import picks
from quantpress.gguf import GGUF
from quantpress.names import variant_file

__all__ = ["given_facts"]

_HERMES = (
    "hermes config set model.provider custom",
    "hermes config set model.base_url http://127.0.0.1:8080/v1",
)
_SHOWING = {"address": address, "command": command, "fenced": fenced, "html": html.escape, "percent": percent}


def given_facts(
    folder: Path,
    results: Mapping[str, Any],
    facts: Mapping[str, Any],
    base: GGUF,
    imatrix: str,
    pictures: Mapping[str, str],
    base_model: str | None,
) -> dict[str, Any]:
    """The context of the templates but for the words; arguments as in `write_card`."""
    model, settings = results["model"], facts["settings"]
    found = [_completed(row, folder, model, pictures) for row in rows.make_rows(results)]
    return {
        "about": about_model(base, model),
        "model": model,
        "base_model": base_model,
        "base_perplexity": with_error(results["base"]["perplexity"], results["base"]["perplexity_error"]),
        "tokens": f"{results['base']['tokens']:,}",
        "facts": facts,
        "engine": {"llama_cpp": "", **facts["engine"]},
        "settings": settings,
        "repository": settings["repository"],
        "imatrix": imatrix,
        "pictures": dict(pictures),
        "report": "report.html" if (folder / "report.html").is_file() else None,
        "prompt": prompt(base),
        "conversational": bool(base.get("tokenizer.chat_template")),
        "commands": commands(facts, model, base_model, results.get("machine", {}).get("gpu_layers", 0)),
        "texts": {purpose: text_facts(facts, purpose) for purpose in ("calibration", "evaluation")},
        "compensated": _compensated(found),
        **_tables(found),
        **_measured(results, found),
        **_starting(rows.pick(found), found, settings["repository"]),
        **_SHOWING,
        "plain": plain,
    }


def _completed(row: dict[str, Any], folder: Path, model: str, pictures: Mapping[str, str]) -> dict[str, Any]:
    """A row with what to download and, where it is no stock mix, what there is to show of its plan."""
    include = f"{row['target']}/*" if row["split"] else row["file"]
    name = variant_file("", model, row["variant"]).with_suffix(".plan.tensor_types.txt").name
    plan = {
        "types": row.get("types"),
        "plan_file": f"plans/{name}" if (folder / "plans" / name).is_file() else None,
        "plan_picture": pictures.get(row["variant"]),
    }
    return {**row, "include": include, **(dict.fromkeys(plan) if row["stock"] else plan)}


def _compensated(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How many matrices of all files were, and the files with tensors that were not; None where none could be."""
    rows = [row for row in found if "compensated" in row]
    if not rows:
        return None
    totals = {key: sum(row["compensated"][key] for row in rows) for key in ("matrices", "of")}
    left = [{"target": row["target"], "names": ", ".join(row["compensated"]["plain"])} for row in rows]
    return {**totals, "plain": [one for one in left if one["names"]]}


def _tables(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rows": found,
        "picks": picks(found),
        "frontier": rows.frontier(found),
        "pairs": rows.pairs(found),
        "gates": rows.gates(found),
        "searched": [row for row in found if "allocation" in row],
        "mixed": [row for row in found if not row["stock"]],
        "plans": [row for row in found if row["types"] or row["plan_file"] or row["plan_picture"]],
        "split": [row for row in found if row["split"]],
        "unlabelled": [row for row in found if row["label"] is None],
        "backends": backends.matrix(),
        "families": list(backends.FAMILIES),
        "backends_version": backends.READ_FROM,
        "repacking": backends.REPACKED,
    }


def _measured(results: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How memory and speed were measured, the same for all rows; empty where they were not."""
    tests = list(dict.fromkeys(test for row in found for test in row["rates"]))
    repeats = [test["repeats"] for row in found for test in row.get("speed", {}).get("tests", ())]
    names = {row["variant"] for row in found if row["rates"]}
    return {
        "memory": next((row["memory"] for row in found if "memory" in row), None),
        "tests": tests,
        "headline": rows.first_tests(tests, ("pp", "tg")),
        "repeats": max(repeats, default=0),
        "noisy": rows.noisy(found),
        "reference": REFERENCE if REFERENCE in names else None,
        "repacked_known": bool(names) and all("repacked" in row["speed"] for row in found if row["rates"]),
        "machine_facts": results.get("machine"),
    }


def _starting(pick: dict[str, Any], found: Sequence[dict[str, Any]], repository: str | None) -> dict[str, Any]:
    """The commands that run a file: by its tag on the Hub if that can mean no other file, else by its name."""
    others = [row["file"].upper() for row in found if row is not pick]
    tag, file = pick["tag"], pick["file"]
    alone = tag and not any(f"{tag}{end}".upper() in other for other in others for end in ".-")
    name = f"{repository}:{tag}" if repository and alone else file
    serve = command("llama-server", "-hf" if repository and alone else "-m", name)
    ours = [command("quantpress", "choose", repository or ".")]
    if repository:  # whose name is the folder that it is pulled into
        ours.append(command("quantpress", "pull", repository, "--include", pick["include"]))
        file = f"{repository.rpartition('/')[2]}/{file}"
    whole = [row["label"] for row in (pick, *found) if not row["split"] and row["label"] and row["label"] == row["tag"]]
    return {
        "pick": pick,
        "serve": serve,
        "hermes": "\n".join([serve, *_HERMES, command("hermes", "config", "set", "model.default", name), "hermes"]),
        "ollama": whole[0] if whole else None,
        "quantpress": "\n".join([*ours, command("quantpress", "serve", file)]),
    }
