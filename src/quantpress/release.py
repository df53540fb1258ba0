"""The whole way from a checkpoint to a release folder: the table of contents of the product.

    checkpoint → BF16 GGUF → text → imatrix → a plan a variant → files → measurements → pictures, card

Every step writes files, and every file is entered in release.json with the hash of what it was made from. A run that
follows an interrupted one, or has another setting, makes only what is missing or no longer matches.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.allocation import is_automatic, parse_spend, parse_target
from quantpress.allocation.measure import CONTEXT
from quantpress.automatic import Automatic, automatic_plans, most_bytes
from quantpress.card import write_card
from quantpress.encoding import encoder_named
from quantpress.engine import about
from quantpress.errors import DiskFullError, InputError, OutputError, PlanError
from quantpress.evaluate import SCRATCH_LIMIT, affordable_chunks, evaluations
from quantpress.files import digest, make_folder
from quantpress.gguf import read
from quantpress.imatrix import imatrix
from quantpress.imatrix import read as read_imatrix
from quantpress.inputs import Base, Text, base_of, check_text, name_of, text_of
from quantpress.ledger import Ledger
from quantpress.metadata import ImatrixInfo
from quantpress.names import model_name, part_files
from quantpress.pictures import draw
from quantpress.plan import Plan, plan
from quantpress.progress import SILENT, Progress
from quantpress.quantize import quantize
from quantpress.recipes import recipe
from quantpress.results import BASE, Results
from quantpress.run import Run, Settings

if TYPE_CHECKING:
    from quantpress.hub import Repository

__all__ = ["CARD_VARIANTS", "release"]

# The release card's list, and the mixed-precision card's recipe.
CARD_VARIANTS = tuple(
    "BF16 Q8_0 Q6_K_L Q6_K Q5_K_L Q5_K_M Q5_K_S Q4_K_L Q4_1 Q4_K_M Q3_K_XL Q4_K_S Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M "
    "IQ3_M Q3_K_S Q2_K_L IQ3_XS Q2_K IQ3_XXS IQ2_M MP".split()
)


@dataclass(frozen=True)
class _Variant:
    """A plan for the model, how it was found if it is an automatic one, and its file or the parts of it."""

    plan: Plan
    parts: tuple[Path, ...]
    allocation: dict[str, Any] | None = None


def release(
    source: str | Path,
    *,
    out: str | Path,
    variants: Sequence[str] = CARD_VARIANTS,
    budget: str = "10m",
    calibration: Sequence[str | Path] = (),
    evaluation: Sequence[str | Path] = (),
    chat: bool = False,
    encoder: str = "quantpress",
    effort: str = "normal",
    context: int = 512,
    calibration_tokens: int = 64 * 512,
    evaluation_tokens: int = 32 * 512,
    evaluation_chunks: int = 128,
    seed: int = 0,
    split_bytes: int = 50 * 10**9,
    repository: str | None = None,
    base_model: str | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    remote: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Make a release folder of a checkpoint (or of its BF16, F16 or F32 GGUF file) and return its card.

    Args:
        source: a Hugging Face checkpoint folder, or a GGUF file in float.
        out: the folder; made if missing, completed if a run was interrupted.
        variants: recipe names, see `recipes.RECIPES`, and automatic plans: `auto:3.98bpw`, `auto:2.40GB`,
            `auto:like:Q4_K_M`, `auto:fit:16GB`.
        budget: measuring for each automatic plan: `10m`, `90s`, `2h`, a number of probes, or 0.
        calibration: text files for the imatrix; without them the model writes its own.
        evaluation: text files to measure on; without them the model writes others.
        chat: render given text through the model's chat template.
        encoder: who encodes the weights, "quantpress" or "ggml".
        effort: time spent on a smaller error: "fast", "normal" or "best".
        context: tokens a window, for the imatrix and for the measurements.
        calibration_tokens: about so many tokens it writes to calibrate on.
        evaluation_tokens: about so many tokens it writes to measure on.
        evaluation_chunks: measure on at most so many windows (and no more than 20 GB of scratch space hold).
        seed: of the text that the model writes.
        split_bytes: larger files are split in parts of at most this size.
        repository: `user/name` of the release on the Hub, for the card's commands and the files' metadata.
        base_model: `user/name` of the checkpoint on the Hub, for the card.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all.
        remote: `source` is a repository on the Hugging Face Hub, `org/name` or `org/name@revision`.
        progress: told of every step.

    Raises QuantpressError: see errors.py.
    """
    targets = {variant: parse_target(variant) for variant in variants if is_automatic(variant)}
    names = tuple(dict.fromkeys(targets[one].name if one in targets else recipe(one).name for one in variants))
    automatic = tuple({target.name: target for target in targets.values()}.values())
    sampled = calibration_tokens, evaluation_tokens, evaluation_chunks
    settings = Settings(
        names, automatic, budget, chat, encoder, effort, context, *sampled, seed, split_bytes, repository
    )
    _check(settings, bool(calibration or evaluation))
    machine = {"threads": threads, "gpu_layers": gpu_layers, "progress": progress}
    found = _source(source, remote)
    with _folder(Path(os.path.abspath(out)), name_of(found)) as folder:
        run = Run(settings, machine, Ledger(folder / "release.json"))
        given = {"calibration": calibration, "evaluation": evaluation}
        return _release(run, found, given, base_model or (str(source).partition("@")[0] if remote else None))


def _source(source: str | Path, remote: bool) -> Path | Repository:
    """A folder or file here, or a repository at the commit that it now stands for."""
    if not remote:
        return Path(os.path.abspath(source))
    from quantpress.hub import pinned  # half a second that a folder does not need

    return pinned(str(source))


def _release(
    run: Run, source: Path | Repository, given: Mapping[str, Sequence[str | Path]], base_model: str | None
) -> Path:
    settings, ledger, progress = run.settings, run.ledger, run.machine["progress"]
    facts = ledger.facts = {"version": 1, "quantpress": version("quantpress"), "engine": about()}
    facts["settings"] = asdict(settings)
    base = base_of(source, ledger, settings.variants, settings.split_bytes, progress)
    for purpose, files in given.items():
        window = max(settings.context, CONTEXT) if settings.targets else settings.context
        check_text(purpose, files, base, window, settings.chat)
    plans = _plans(run, base, given["calibration"])
    tokens = {"calibration": settings.calibration_tokens, "evaluation": settings.evaluation_tokens}
    texts = {
        purpose: text_of(purpose, files, base, ledger, tokens[purpose], settings.seed, run.machine)
        for purpose, files in given.items()
    }
    facts["texts"] = {purpose: {"by_model": text.by_model, "sha256": text.sha256} for purpose, text in texts.items()}
    importance = _importance(run, base, texts["calibration"])
    automatic = automatic_plans(run, base, importance, texts)
    variants = _variants(run, base, importance, plans, automatic)
    results = _describe(run, base, variants, _measure(run, base, variants, texts["evaluation"]))
    words: dict[str, Any] = {f"{purpose}_text": text.description for purpose, text in texts.items()}
    words |= {"imatrix": importance.name, "base_model": base_model}
    words["pictures"] = draw(run, base, {name: found.plan for name, found in variants.items()}, results)
    with read(base.path) as model:
        page = write_card(run.folder, results, facts, model, **words)
    ledger.record([page, run.folder / "results.json"], digest(["page", results]))
    if ledger.unlisted:
        left = ", ".join(file.relative_to(run.folder).as_posix() for file in ledger.unlisted)
        progress.note(f"made by earlier runs, no part of this release, left in its folder: {left}")
    return page


def _check(settings: Settings, given_text: bool) -> None:
    """What can be wrong with the settings, before any work."""
    encoder_named(settings.encoder, settings.effort)
    parse_spend(settings.budget)
    if not settings.variants:
        raise PlanError(None, "variants", expected="at least one recipe", found="none")
    if settings.chat and not given_text:
        hint = "The model's own text is not rendered. Give --calibration FILE or --evaluation FILE"
        raise InputError(None, "chat", expected="text to render", found="none", hint=hint)
    least = {"context": 32, "calibration_tokens": 1, "evaluation_tokens": 1, "evaluation_chunks": 1, "split_bytes": 1}
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise InputError(None, name, expected=f"at least {value}", found=getattr(settings, name))


@contextlib.contextmanager
def _folder(out: Path, model: str) -> Iterator[Path]:
    """The release folder, for this run alone, without what a killed run may have left half-written."""
    make_folder(out / "work")
    lock = os.open(out / "work", os.O_RDONLY)
    try:
        _lock(lock, out)
        name = glob.escape(model)
        for pattern in (f".{name}-*.partial", f"{name}-*/.{name}-*.partial", "work/.*.partial", "work/quantpress-*"):
            for left in out.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield out
    finally:
        os.close(lock)


def _lock(lock: int, out: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{out}: another run is at work in this folder. Wait for it or choose another") from None


def _plans(run: Run, base: Base, calibration: Sequence[str | Path]) -> dict[str, Plan]:
    """A plan a recipe; raises DiskFullError if the disk has no room for what is not there yet.

    Made before the importance matrix: that there will be one decides the types, and its name the size.
    """
    file = run.file(base, "imatrix").name
    info = ImatrixInfo(file, Path(calibration[0]).name if calibration else "calibration.txt", entries=0, chunks=1)
    with read(base.path) as model:
        facts: dict[str, Any] = {"imatrix": info, "extra": run.extra, "progress": run.machine["progress"]}
        plans = {name: plan(model, type=name, **facts) for name in run.settings.recipes}
        sizes = {name: found.bytes for name, found in plans.items()}
        sizes |= {target.name: most_bytes(model, target, run, info) for target in run.settings.targets}
    needed = sum(size for name, size in sizes.items() if not run.file(base, name).exists())
    free = shutil.disk_usage(run.folder).free
    if needed > free:
        raise DiskFullError(run.folder, needed, free)
    return plans


def _importance(run: Run, base: Base, text: Text) -> Path:
    """The importance matrix of the base for the calibration text."""
    path = run.file(base, "imatrix")
    chat = run.settings.chat and not text.by_model
    settings: dict[str, Any] = {"context": run.settings.context, "chat": chat, "process_output": True}
    made_from = run.made_from("imatrix", base.sha256, text.sha256, settings)
    if not run.ledger.kept(made_from):
        imatrix(base.path, text=text.files, out=path, **settings, **run.machine)
        run.ledger.record([path], made_from)
    return path


def _variants(
    run: Run, base: Base, importance: Path, plans: Mapping[str, Plan], automatic: Mapping[str, Automatic]
) -> dict[str, _Variant]:
    """Every variant's files; those that are missing are made in one pass."""
    info = read_imatrix(importance).info
    finals = {name: replace(provisional, imatrix=info) for name, provisional in plans.items()}
    for name, final in finals.items():
        _write_plan(run, base, name, final)
    finals |= {name: found.plan for name, found in automatic.items()}
    found: dict[str, _Variant] = {}
    missing: dict[str, tuple[Plan, str]] = {}
    for name, final in finals.items():
        how = [run.settings.encoder, run.settings.effort, run.settings.split_bytes, run.settings.repository]
        made_from = run.made_from(name, base.sha256, run.ledger.sha256(importance), final.to_json(), how)
        if name == "BF16" and base.published:
            found[name] = _Variant(final, base.parts)
        elif kept := run.ledger.kept(made_from):
            found[name] = _Variant(final, tuple(kept))
        else:
            missing[name] = (final, made_from)
    if missing:
        (run.folder / "README.md").unlink(missing_ok=True)  # it describes what is about to be replaced
        for (name, (final, made_from)), first in zip(
            missing.items(), _quantize(run, base, importance, missing), strict=True
        ):
            found[name] = _Variant(final, tuple(part_files(first)))
            run.ledger.record(found[name].parts, made_from)
    how_found = {name: one.allocation for name, one in automatic.items()}
    return {name: replace(found[name], allocation=how_found.get(name)) for name in run.settings.variants}


def _write_plan(run: Run, base: Base, name: str, final: Plan) -> None:
    path = run.plan_file(base, name)
    made_from = digest(["plan", name, final.to_json()])
    if not run.ledger.kept(made_from):
        final.write(path)
        run.ledger.record([path, path.with_suffix(".tensor_types.txt")], made_from)


def _quantize(run: Run, base: Base, importance: Path, missing: Mapping[str, tuple[Plan, str]]) -> list[Path]:
    return quantize(
        base.path,
        plans=[final for final, _ in missing.values()],
        imatrix=importance,
        out=run.folder,
        encoder=run.settings.encoder,
        effort=run.settings.effort,
        split_bytes=run.settings.split_bytes,
        extra=run.extra,
        threads=run.machine["threads"],
        progress=run.machine["progress"],
    )


def _measure(run: Run, base: Base, variants: Mapping[str, _Variant], text: Text) -> Results:
    """Perplexity and divergence of every file whose bytes have not been measured on this text."""
    with read(base.path) as model:
        affordable = affordable_chunks(len(model.get("tokenizer.ggml.tokens", ())), run.settings.context, SCRATCH_LIMIT)
    settings: dict[str, Any] = {
        "context": run.settings.context,
        "chunks": min(run.settings.evaluation_chunks, affordable),
        "chat": run.settings.chat and not text.by_model,
    }
    results = Results(run.folder / "results.json", run.made_from("results", base.sha256, text.sha256, settings))
    hashes = {name: [run.ledger.sha256(part) for part in found.parts] for name, found in variants.items()}
    missing = [name for name in variants if not results.keeps(name, hashes[name])]
    others = [name for name in missing if variants[name].parts != base.parts]
    if others or not results.keeps(BASE, base.sha256):
        quants = [variants[name].parts[0] for name in others]
        scratch = run.folder / "work"
        measured = evaluations(base.path, quants, text=text.files, scratch=scratch, **settings, **run.machine)
        for name, found in zip([BASE, *others], measured, strict=True):
            results.enter(name, found.to_dict(), base.sha256 if name == BASE else hashes[name])
    for name in missing:
        if variants[name].parts == base.parts:
            results.enter(name, results.rows[BASE], hashes[name])
    return results


def _describe(run: Run, base: Base, variants: Mapping[str, _Variant], results: Results) -> dict[str, Any]:
    """Complete results.json with what a file is, beside how good it is."""
    for name, found in variants.items():
        results.rows[name] |= {
            "variant": name,
            "file": found.parts[0].relative_to(run.folder).as_posix(),
            "split": len(found.parts) > 1,
            "bytes": sum(part.stat().st_size for part in found.parts),
            "bits_per_weight": found.plan.bits_per_weight,
            **({"allocation": found.allocation} if found.allocation else {}),
        }
    results.rows[BASE]["file"] = base.path.name
    results.facts = {"model": model_name(base.path), "context": run.settings.context}
    return results.save([BASE, *variants])
