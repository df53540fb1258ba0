"""Automatic bit allocation: the assignment of types to tensors with the least damage for a size, and proof that it is.

    errors (seconds) → knapsack → search on one text, in memory → gate on another text, against a stock mix

Without a text to search on, the knapsack's choice from errors alone is the plan. The gate compares plan and reference
on held-out text; a plan that does not win is reported, and the reference's types are kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantpress import gguf
from quantpress import text as texts
from quantpress.allocation.candidates import CANDIDATES, Constraints, Group, choices, fixed_bytes
from quantpress.allocation.damage import scales
from quantpress.allocation.encoders import plain_roles
from quantpress.allocation.measure import Meter, meter
from quantpress.allocation.probing import probe
from quantpress.allocation.problem import Choice, Divergences, Problem, problem_of
from quantpress.allocation.search import Candidate, search
from quantpress.allocation.target import Spend, Target, parse_target
from quantpress.cpu import default_threads
from quantpress.engine import Tokens
from quantpress.errors import PlanError
from quantpress.evaluate import Evaluation
from quantpress.files import write_json, write_text
from quantpress.formats import TYPES, TensorType, tensor_type
from quantpress.gguf import GGUF
from quantpress.imatrix import Imatrix, covered
from quantpress.metadata import ImatrixInfo
from quantpress.model import check_threads
from quantpress.plan import Extra, Plan, check, from_types, missing_importance, plan
from quantpress.progress import SILENT, Progress
from quantpress.recipes import MIXES
from quantpress.sensitivity import Observed, Sensitivity, add_errors, fingerprint, read_sensitivity
from quantpress.statistics import moments_for, open_statistics

__all__ = ["Allocation", "Gate", "allocate"]

SEARCH_CHUNKS, GATE_CHUNKS = 16, 32
_SMALLEST = "IQ1_S"  # stands for a file that is smaller than every mix
_BUDGET = Spend(seconds=600)


@dataclass(frozen=True)
class Gate:
    """Plan and reference on the held-out text."""

    text: str
    plan: Evaluation
    reference: Evaluation | None  # None where no stock mix can be made that is as small
    plain: Evaluation | None = None  # the plan's types, nothing compensated; None where nothing was

    @property
    def passed(self) -> bool:
        """Whether the plan is better than its reference: its mean divergence is lower."""
        return self.reference is None or self.plan.kld_mean < self.reference.kld_mean

    @property
    def worthwhile(self) -> bool:
        """Whether compensated encoding is better than plain."""
        return self.plain is None or self.plan.kld_mean < self.plain.kld_mean


@dataclass(frozen=True)
class Allocation:
    """A plan and how it was found."""

    plan: Plan
    reference: str | None  # the recipe it is compared with: that of `like`, or the largest stock mix that is no larger
    reference_bytes: int | None  # of the file that the reference makes
    limit: int  # bytes that the file was allowed
    predicted: float  # nats, by the scales that were fitted; from errors alone it only ranks
    gap: float  # relative: how far the knapsack may be from its optimum
    measured: float | None  # mean KL divergence on the search text
    probes: int
    gate: Gate | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the plan's own entries, and `allocation`."""
        own = asdict(self)
        del own["plan"]
        if self.gate is not None:
            own["gate"] |= {"passed": self.gate.passed, "worthwhile": self.gate.worthwhile}
        return {**self.plan.to_dict(), "allocation": own}

    def write(self, path: str | Path) -> None:
        """As `Plan.write`, with `allocation` among the entries of `plan.json`; raises OutputError."""
        write_json(Path(path), self.to_dict())
        write_text(Path(path).with_suffix(".tensor_types.txt"), self.plan.to_tensor_types())


def allocate(
    model: str | Path,
    target: str | Target,
    *,
    imatrix: str | Path | None = None,
    text: texts.Paths = (),
    held_out: texts.Paths = (),
    budget: Spend = _BUDGET,
    constraints: Constraints | None = None,
    encoder: str = "quantpress",
    effort: str = "normal",
    moments: str | Path | None = None,
    sensitivity: str | Path | None = None,
    extra: Extra = (),
    chat: bool = False,
    held_out_chat: bool | None = None,
    search_chunks: int = SEARCH_CHUNKS,
    gate_chunks: int = GATE_CHUNKS,
    scratch: str | Path | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Allocation:
    """Plan the best file for a target.

    Args:
        model: the float model, a GGUF file; a search holds it in memory, on the CPU.
        target: `3.98bpw`, `2.40GB`, `like:Q4_K_M` or `fit:16GB`, or what `target.parse_target` makes of it.
        imatrix: an importance matrix of the model. Without one, types that need one are left out, and it is said.
        text: to search on; without it the plan is made from errors alone.
        held_out: text for the gate, which neither imatrix nor search should have seen; without it the model writes it.
        budget: how much measuring the search may do, see `target.parse_spend`.
        constraints: see `candidates.Constraints`.
        encoder: who will encode, "quantpress" or "ggml".
        effort: with what effort, as in `quantize`.
        moments: second moments, as in `quantize`; a tensor without is encoded plainly.
        sensitivity: a file that keeps errors and probes: what it holds is not computed again.
        extra: metadata that will be added, as in `plan`.
        chat: render the texts through the model's chat template.
        held_out_chat: the same for the held-out text alone, default as `chat`.
        search_chunks: windows of the search text, spread over it.
        gate_chunks: windows of the held-out text.
        scratch: folder for the float model's predictions, default the system's temporary one.
        threads: default all cores.
        progress: told of every step.

    Raises PlanError for a target out of reach (it says both bounds) or constraints that cannot hold, InputError for a
    sensitivity file of something else or weights that cannot be encoded, TextError, ImatrixError, EngineError,
    OutputError.
    """
    check_threads(threads)
    target = parse_target(target) if isinstance(target, str) else target
    files, others = texts.paths_of(text), texts.paths_of(held_out)
    for file in (*files, *others):
        texts.read_text(file)  # what cannot be read is told before minutes of work
    if same := {file.resolve() for file in files} & {file.resolve() for file in others}:
        progress.note(f"{min(same).name} is searched on and held out: the gate shows less than it should")
    encoding = {"encoder": encoder, "effort": effort}
    second = moments_for(effort, imatrix, moments)
    with gguf.read(model) as source, open_statistics(source, imatrix, effort, moments) as statistics:
        importance = statistics.imatrix
        if importance is None:
            progress.note("no importance matrix: types that need one are left out, and the others are encoded worse")
        extra = statistics.metadata(extra)
        frame = _frame(source, target, importance, constraints, extra, encoder)
        if frame.reference is None and target.kind == "like":
            progress.note(f"{target.text} needs importance that there is not: the plan is compared with nothing")
        path = None if sensitivity is None else Path(sensitivity)
        known = read_sensitivity(path, {**fingerprint(source, importance, second), **encoding})
        threads = threads or default_threads()
        add_errors(known, statistics, frame.candidates, threads=threads, progress=progress, **encoding)
        problem = problem_of(source, frame.groups, known.errors, frame.limit - frame.fixed)
        if not files or budget.none:
            why = "no text to search on" if not files else "no budget for measuring"
            how = "and earlier probes" if known.observed else "alone, which rank the types but measure nothing"
            progress.note(f"{why}: planned from errors {how}")
            return _unmeasured(frame, problem, known.observed)
        with meter(Path(model), imatrix, moments=second, scratch=scratch, threads=threads, **encoding) as instrument:
            windows = instrument.windows(files, limit=search_chunks, chat=chat, spread=True)
            other_chat = chat if held_out_chat is None else held_out_chat
            apart = instrument.windows(others, limit=gate_chunks, chat=other_chat) if others else None
            found = _searched(frame, problem, instrument, windows, budget.restarted(), known, progress)
            if apart is None:
                others, apart = _own_text(instrument, gate_chunks, progress)
            names = ", ".join(file.name for file in others)
            gate = _gate(frame, instrument, problem.types(found.best.choice), found.plain, names, apart, progress)
        return _judged(frame, problem, found, gate, progress)


@dataclass(frozen=True)
class _Frame:
    """What is fixed before anything is measured; `limit` and `fixed` in bytes of the file."""

    source: GGUF
    target: Target
    info: ImatrixInfo | None
    extra: Extra
    groups: list[Group]
    fixed: int
    limit: int
    reference: Plan | None

    @property
    def candidates(self) -> dict[str, list[TensorType]]:
        """Tensor to the types whose errors are wanted: all that it may have but its own."""
        return {
            name: [type for type in group.types if type != self.source.tensors[name].type]
            for group in self.groups
            for name in group.names
        }

    def allows(self, other: Plan) -> bool:
        """Whether a plan keeps to the constraints: one type for each group, which it may have."""
        given = ({other.types[name] for name in group.names} for group in self.groups)
        return all(len(types) == 1 and types <= {*group.types} for types, group in zip(given, self.groups, strict=True))

    def plan(self, types: Mapping[str, str]) -> Plan:
        """The plan that gives these tensors these types."""
        tensors = {name: TYPES[types[name]] if name in types else one.type for name, one in self.source.tensors.items()}
        check(self.source, tensors)
        return from_types(
            self.source,
            tensors,
            recipe=self.target.name,
            file_type=self.reference.file_type if self.reference else MIXES[_SMALLEST].file_type,
            imatrix=self.info,
            extra=self.extra,
        )


def _frame(
    source: GGUF,
    target: Target,
    importance: Imatrix | None,
    constraints: Constraints | None,
    extra: Extra,
    encoder: str,
) -> _Frame:
    """Raises PlanError for a size that no choice of types has, and for a model that is quantized already."""
    info = importance.info if importance is not None else None
    with_one = covered(importance, source) if importance is not None else None
    groups = choices(source, covered=with_one, constraints=constraints, encoder=encoder)
    for name in (name for group in groups for name in group.names):
        if source.tensors[name].type.quantized:
            found, hint = source.tensors[name].type.name, "Start from the BF16, F16 or F32 file"
            raise PlanError(source.path, f"tensor {name}", expected="a float type", found=found, hint=hint)
    fixed = fixed_bytes(source, groups, imatrix=info, extra=extra)
    mix = target.mix(source, info, extra)
    limit = target.limit(source, groups, info, extra, mix)
    reference = _reference(source, mix, limit, info, with_one or (), extra)
    return _Frame(source, target, info, extra, groups, fixed, limit, reference)


def _reference(
    source: GGUF,
    mix: Plan | None,
    limit: int,
    info: ImatrixInfo | None,
    with_one: Collection[str],
    extra: Extra,
) -> Plan | None:
    """The plan to beat: `mix`, that of `like`, else of the largest that is no larger; None where all are larger."""
    names = [name for name in MIXES if _comparable(name)]
    plans = [mix] if mix else [plan(source, type=name, imatrix=info, extra=extra) for name in names]
    fitting = [one for one in plans if one.bytes <= limit and not missing_importance(one, with_one)]
    return max(fitting, key=lambda one: one.bytes, default=None)


def _comparable(mix: str) -> bool:
    """Whether people would take the mix: not those made for models trained in few bits, nor Q2_K_S's stricter rules."""
    base = tensor_type(MIXES[mix].base)
    return base in CANDIDATES and mix != "Q2_K_S"


@dataclass(frozen=True)
class _Found:
    """`predicted`: the damage of the best candidate by the fitted scales; `gap`: of the knapsack."""

    best: Candidate
    predicted: float
    gap: float
    probes: int
    plain: tuple[str, ...]  # what is better encoded plainly


def _searched(
    frame: _Frame,
    problem: Problem,
    instrument: Meter,
    windows: Tokens,
    spend: Spend,
    known: Sensitivity,
    progress: Progress,
) -> _Found:
    """Probe, fit, search: all on one text."""
    passage = instrument.passage("search", windows, progress)
    observed = known.probes.setdefault(passage.digest, {})

    def measure(choice: Choice) -> Divergences:
        return instrument.scores(passage, problem.types(choice)).kld

    probe(problem, measure, spend, observed, save=known.save, progress=progress)
    if not observed:
        progress.note("the budget is too small to probe every kind of tensor: the search begins from errors alone")
    fitted = scales(problem.roles, observed)
    limit = math.inf
    if frame.reference is not None:
        limit = float(np.percentile(instrument.scores(passage, changed(frame.source, frame.reference)).kld, 99))
    best = search(problem, measure, spend, fitted, limit=limit, progress=progress)[-1]
    damages = problem.damages(fitted)
    plain = plain_roles(problem, best, instrument, passage) if instrument.compensates else ()
    return _Found(best, problem.damage(best.choice, damages), problem.solve(damages)[1], spend.done, plain)


def _own_text(instrument: Meter, chunks: int, progress: Progress) -> tuple[list[Path], Tokens]:
    """A held-out text by the model, and its windows."""
    progress.note("no held-out text: the model writes its own")
    files = [instrument.sampled("held-out", chunks, progress)]
    return files, instrument.windows(files, limit=chunks)


def _gate(
    frame: _Frame,
    instrument: Meter,
    types: Mapping[str, str],
    plain: Collection[str],
    text: str,
    windows: Tokens,
    progress: Progress,
) -> Gate:
    """Plan and reference on the windows of the held-out text, which is called `text`."""
    passage, other = instrument.passage("held-out", windows, progress), frame.reference
    return Gate(
        text,
        instrument.evaluation(frame.target.name, passage, types, plain),
        None if other is None else instrument.evaluation(other.recipe, passage, changed(frame.source, other)),
        instrument.evaluation(frame.target.name, passage, types, types) if instrument.compensates else None,
    )


def _unmeasured(frame: _Frame, problem: Problem, observed: Observed) -> Allocation:
    """The knapsack's choice for the scales that are known."""
    damages = problem.damages(scales(problem.roles, observed))
    choice, gap = problem.solve(damages)
    found, damage = frame.plan(problem.types(choice)), problem.damage(choice, damages)
    return Allocation(found, *_named(frame.reference), frame.limit, damage, gap, None, 0, None)


def _judged(frame: _Frame, problem: Problem, found: _Found, gate: Gate, progress: Progress) -> Allocation:
    """The plan that the gate lets through, or its reference."""
    kept = problem.types(found.best.choice)
    if not gate.passed and frame.reference is not None:
        lost = f"{frame.target.name} is no better than {frame.reference.recipe} on held-out text"
        if frame.allows(frame.reference):
            progress.note(f"{lost}: the types of {frame.reference.recipe} are kept")
            kept = changed(frame.source, frame.reference)
        else:
            progress.note(f"{lost}, whose types the constraints forbid")
    plain = found.plain
    if not gate.worthwhile:
        progress.note(f"{frame.target.name}: compensated encoding is no better than plain on held-out text: not used")
        plain = tuple(kept)
    names, measured = _named(frame.reference), found.best.mean
    return Allocation(
        replace(frame.plan(kept), plain=plain),
        *names,
        frame.limit,
        found.predicted,
        found.gap,
        measured,
        found.probes,
        gate,
    )


def _named(reference: Plan | None) -> tuple[str | None, int | None]:
    """Name and bytes."""
    return (None, None) if reference is None else (reference.recipe, reference.bytes)


def changed(source: GGUF, one: Plan) -> dict[str, str]:
    """The tensors to which a plan gives another type than they have, with that type."""
    return {name: type for name, type in one.tensors.items() if type != source.tensors[name].type.name}
