"""The automatic variants of a release: planned once, kept while what they were made from is the same.

The search measures on the calibration text, the gate on the evaluation text, which neither imatrix nor search has seen.
What one search learns (work/sensitivity.json: errors, probes) serves the next one, and the same one after an
interruption; of another model, imatrix or encoder it is thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpress import gguf
from quantpress.allocation import Target, allocate, parse_spend
from quantpress.allocation.candidates import choices
from quantpress.errors import InputError
from quantpress.files import make_folder
from quantpress.gguf import GGUF
from quantpress.imatrix import read as read_imatrix
from quantpress.inputs import Base, Text
from quantpress.metadata import ImatrixInfo
from quantpress.plan import Extra, Plan, read_plan
from quantpress.run import Run
from quantpress.sensitivity import fingerprint, read_sensitivity

__all__ = ["Automatic", "automatic_plans", "most_bytes"]


@dataclass(frozen=True)
class Automatic:
    """A plan, and how it was found: `allocation` of `Allocation.to_dict`."""

    plan: Plan
    allocation: dict[str, Any]


def most_bytes(model: GGUF, target: Target, run: Run, imatrix: ImatrixInfo, extra: Extra) -> int:
    """What the file of a target will take at most, before there is an importance matrix; `imatrix`: its names.

    Raises PlanError for a target out of reach.
    """
    groups = choices(model, covered=set(model.tensors), encoder=run.settings.encoder)
    return target.limit(model, groups, imatrix, extra)


def automatic_plans(run: Run, base: Base, importance: Path, texts: Mapping[str, Text]) -> dict[str, Automatic]:
    """The plan of each target, by its name; those that are missing are searched for, one after the other."""
    return {target.name: _kept_or_made(run, base, target, importance, texts) for target in run.settings.targets}


def _kept_or_made(run: Run, base: Base, target: Target, importance: Path, texts: Mapping[str, Text]) -> Automatic:
    settings, path = run.settings, run.plan_file(base, target.name)
    how = [asdict(target), settings.budget, settings.encoder, settings.effort, settings.chat, settings.repository]
    sources = [base.sha256, run.ledger.sha256(importance), *(text.sha256 for text in texts.values())]
    made_from = run.made_from("automatic", *sources, how)
    if not run.ledger.kept(made_from):
        _make(run, base, target, importance, texts, path)
        run.ledger.record([path, path.with_suffix(".tensor_types.txt")], made_from)
    with gguf.read(base.path) as model:
        found = read_plan(path, model, extra=run.extra)
    return Automatic(found, json.loads(path.read_text(encoding="utf-8"))["allocation"])


def _make(run: Run, base: Base, target: Target, importance: Path, texts: Mapping[str, Text], path: Path) -> None:
    settings, progress = run.settings, run.machine["progress"]
    progress.note(f"{target.name}: an automatic plan")
    chat = {purpose: settings.chat and not text.by_model for purpose, text in texts.items()}
    found = allocate(
        base.path,
        target,
        imatrix=importance,
        text=texts["calibration"].files,
        held_out=texts["evaluation"].files,
        budget=parse_spend(settings.budget),
        encoder=settings.encoder,
        effort=settings.effort,
        moments=run.moments(base),
        sensitivity=_sensitivity(run, base, importance),
        extra=run.extra,
        chat=chat["calibration"],
        held_out_chat=chat["evaluation"],
        scratch=run.folder / "work",
        threads=run.machine["threads"],
        progress=progress,
    )
    make_folder(path.parent)
    found.write(path)


def _sensitivity(run: Run, base: Base, importance: Path) -> Path:
    """Where what is measured is kept; an old or damaged file is removed."""
    path = run.folder / "work" / "sensitivity.json"
    encoding = {"encoder": run.settings.encoder, "effort": run.settings.effort}
    with gguf.read(base.path) as model:
        try:
            read_sensitivity(path, {**fingerprint(model, read_imatrix(importance), run.moments(base)), **encoding})
        except InputError:
            path.unlink()
    return path
