"""The page of a release: its template is `templates/card.md.j2`, every number in it comes from results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from quantpress.chat import Template, render
from quantpress.errors import TextError
from quantpress.files import write_text
from quantpress.gguf import GGUF
from quantpress.names import hub_label
from quantpress.recipes import VARIANTS, recipe
from quantpress.sizes import human_size

__all__ = ["frontier", "write_card"]

_TINY = 1e-6


def write_card(
    folder: Path,
    results: dict[str, Any],
    facts: dict[str, Any],
    base: GGUF,
    *,
    imatrix: str,
    pictures: Mapping[str, str],
    calibration_text: str,
    evaluation_text: str,
    base_model: str | None = None,
) -> Path:
    """Write README.md of a release folder and return its path.

    `results` is results.json, `facts` what release.json says beside the files, `base` the float model, `imatrix` the
    file's name, `pictures` are those of pictures.py, the texts are described in a few words, `base_model` is the
    checkpoint's `user/name` on the Hub.
    """
    rows = [_row(name, row) for name, row in results["variants"].items()]
    rows.sort(key=lambda row: -int(row["bytes"]))
    context = {
        "front_matter": _front_matter(base, base_model),
        "model": results["model"],
        "origin": base.get("general.name") or results["model"],
        "architecture": base.get("general.architecture"),
        "weights": _count(sum(tensor.weights for tensor in base.tensors.values())),
        "quantpress": facts["quantpress"],
        "engine": facts["engine"],
        "tokens": results["base"]["tokens"],
        "base_type": max(base.tensors.values(), key=lambda tensor: tensor.nbytes).type.name,
        "base_perplexity": _with_error(results["base"]["perplexity"], results["base"]["perplexity_error"]),
        "calibration_text": calibration_text,
        "evaluation_text": evaluation_text,
        "imatrix": imatrix,
        "rows": rows,
        "frontier": frontier(rows),
        "pictures": dict(pictures),
        "searched": [row for row in rows if "allocation" in row],
        "gates": [_gate(row) for row in rows if row.get("allocation", {}).get("gate")],
        "enlarged": any(row["variant"] in VARIANTS for row in rows),
        "unlabelled": [row["file"] for row in rows if hub_label(row["file"]) is None],
        "repository": facts["settings"]["repository"],
        "pick": _pick(rows),
        "prompt": _prompt(base),
        "license": base.get("general.license"),
    }
    environment = Environment(loader=PackageLoader("quantpress"), undefined=StrictUndefined, autoescape=False)  # noqa: S701  (Markdown)
    page = folder / "README.md"
    write_text(page, environment.get_template("card.md.j2").render(context))
    return page


def frontier(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows than which none is both no larger and closer to the original; largest first."""
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["bytes"], row["kld_mean"])):
        if not kept or row["kld_mean"] < kept[-1]["kld_mean"]:
            kept.append(row)
    return kept[::-1]


def _row(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "variant": name,
        "size": human_size(row["bytes"]),
        "kld": _with_error(row["kld_mean"], row["kld_error"]),
        "description": _description(name, row).replace("|", "\\|"),  # a bare one would end the table's cell
    }


def _description(name: str, row: dict[str, Any]) -> str:
    found = row.get("allocation")
    if found is None:
        return recipe(name).description
    if found["gate"] is None:
        return "Automatic: types by the errors of the weights"
    if not found["gate"]["passed"]:
        return f"Automatic, but no plan was better than {found['reference']}: the types of {found['reference']}"
    return "Automatic: types by measured damage" + (f"; better than {found['reference']}" if found["reference"] else "")


def _gate(row: dict[str, Any]) -> dict[str, Any]:
    """An automatic plan beside its reference: the lines of its table, and what follows from them."""
    found = row["allocation"]
    gate, reference = found["gate"], found["reference"]
    sides = [_side(row["variant"], row["bytes"] if gate["passed"] else None, gate["plan"])]
    if reference is not None:
        sides.append(_side(reference, found["reference_bytes"], gate["reference"]))
    ratio = gate["plan"]["kld_mean"] / gate["reference"]["kld_mean"] if reference and gate["passed"] else None
    return {"variant": row["variant"], "reference": reference, "passed": gate["passed"], "ratio": ratio, "sides": sides}


def _side(name: str, nbytes: int | None, measured: dict[str, Any]) -> dict[str, Any]:
    """A line of the table; the size of a plan that was given up is of no interest."""
    kld = _with_error(measured["kld_mean"], measured["kld_error"])
    return {**measured, "name": name, "size": "" if nbytes is None else human_size(nbytes), "kld": kld}


def _with_error(value: float, error: float) -> str:
    """A value to the decimals of its error's second digit: 0.000184 ± 0.000002."""
    if not error or abs(value) < _TINY:
        return f"{value:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _pick(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The file that the commands show: llama.cpp's own default, Q4_K_M, else the middle of the list."""
    row = next((row for row in rows if row["variant"] == "Q4_K_M"), rows[len(rows) // 2])
    file = row["file"]
    return {"file": file, "include": f"{Path(file).parent}/*" if row["split"] else file}


def _front_matter(base: GGUF, base_model: str | None) -> str:
    """YAML; JSON strings and lists are YAML too, so nothing needs another library."""
    template = base.get("tokenizer.chat_template")
    fields = {
        "quantized_by": "quantpress",
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "language": base.get("general.languages"),
        "license": base.get("general.license"),
        "base_model": base_model,
        "base_model_relation": "quantized" if base_model else None,
        "tags": ["gguf", "imatrix", *(["conversational"] if template else [])],
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items() if value is not None)


def _prompt(base: GGUF) -> str | None:
    """The chat template with placeholders, None where there is none or it takes no such conversation."""
    source = base.get("tokenizer.chat_template")
    if not source:
        return None
    tokens = base.get("tokenizer.ggml.tokens")
    bos, eos = (_token(tokens, base.get(f"tokenizer.ggml.{kind}_token_id")) for kind in ("bos", "eos"))
    system, user = (
        {"role": role, "content": text} for role, text in (("system", "{system_prompt}"), ("user", "{prompt}"))
    )
    template = Template(base.path, source, bos, eos)
    for conversation in ([system, user], [user]):  # some templates refuse a system prompt
        try:
            return render(template, [conversation], prompt=True)[0].rstrip()
        except TextError:
            continue
    return None


def _token(tokens: Sequence[str], number: int | None) -> str:
    return tokens[number] if number is not None and number < len(tokens) else ""


def _count(weights: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if weights >= unit:
            return f"{weights / unit:.3g} {name}"
    return f"{weights:,}"
