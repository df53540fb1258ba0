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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.allocation import is_automatic, parse_spend, parse_target
from quantpress.allocation.measure import CONTEXT
from quantpress.automatic import Automatic, automatic_plans, most_bytes
from quantpress.card import pages
from quantpress.compensation import Choices, compensated, compensation_keys
from quantpress.encoding import COMPENSATED, encoder_named
from quantpress.engine import about
from quantpress.errors import DiskFullError, InputError, OutputError, PlanError
from quantpress.files import digest, make_folder
from quantpress.gguf import read
from quantpress.imatrix import imatrix
from quantpress.imatrix import read as read_imatrix
from quantpress.inputs import Base, Text, base_of, check_text, name_of, published, text_of
from quantpress.ledger import Ledger
from quantpress.measured import complete, damage, described, memory, opened, renew, speed
from quantpress.metadata import ImatrixInfo
from quantpress.moments import beside
from quantpress.names import part_files
from quantpress.pages import write_pages
from quantpress.parts import in_parts
from quantpress.plan import Plan, plan
from quantpress.progress import SILENT, Progress
from quantpress.quantize import quantize
from quantpress.recipes import recipe
from quantpress.results import Results
from quantpress.run import Run, Settings, Variant

if TYPE_CHECKING:
    from quantpress.hub import Repository
    from quantpress.stream import Stream

__all__ = ["CARD_VARIANTS", "release"]

# The release card's list, and the mixed-precision card's recipe. Automatic plans take minutes each: they are asked for.
CARD_VARIANTS = tuple(
    "BF16 Q8_0 Q6_K_L Q6_K Q5_K_L Q5_K_M Q5_K_S Q4_K_L Q4_1 Q4_K_M Q3_K_XL Q4_K_S Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M "
    "IQ3_M Q3_K_S Q2_K_L IQ3_XS Q2_K IQ3_XXS IQ2_M MP".split()
)

_TEXTS = ("calibration", "evaluation")


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
    allow_plain: bool = False,
    context: int = 512,
    calibration_tokens: int = 64 * 512,
    evaluation_tokens: int = 32 * 512,
    evaluation_chunks: int = 128,
    seed: int = 0,
    split_bytes: int = 50 * 10**9,
    repository: str | None = None,
    base_model: str | None = None,
    texts: bool = True,
    bench: bool = True,
    threads: int | None = None,
    gpu_layers: int = 0,
    remote: bool = False,
    stream: bool = False,
    private: bool = False,
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
        effort: time spent on a smaller error: "fast", "normal" or "best"; "compensated": with second moments.
        allow_plain: encode what has no moments plainly, instead of refusing it.
        context: tokens a window, for the imatrix and for the measurements.
        calibration_tokens: about so many tokens it writes to calibrate on.
        evaluation_tokens: about so many tokens it writes to measure on.
        evaluation_chunks: measure on at most so many windows (and no more than 20 GB of scratch space hold).
        seed: of the text that the model writes.
        split_bytes: larger files are split in parts of at most this size.
        repository: `user/name` of the release on the Hub, for the card's commands and the files' metadata.
        base_model: `user/name` of the checkpoint on the Hub, for the card.
        texts: copy given texts into the release, so that others can repeat it; their hashes are in it in any case.
        bench: measure the speed of each file on this machine.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all.
        remote: `source` is a repository on the Hugging Face Hub, `org/name` or `org/name@revision`.
        stream: send the files to `repository` and remove them here, as many at a time as the disk holds, and publish
            the release at the end; the float model stays. A later run without it makes the files again.
        private: make that repository private.
        progress: told of every step.

    Raises QuantpressError: see errors.py.
    """
    targets = {variant: parse_target(variant) for variant in variants if is_automatic(variant)}
    names = tuple(dict.fromkeys(targets[one].name if one in targets else recipe(one).name for one in variants))
    automatic = tuple({target.name: target for target in targets.values()}.values())
    sampled = calibration_tokens, evaluation_tokens, evaluation_chunks
    how = encoder, effort, allow_plain
    settings = Settings(
        names, automatic, budget, chat, *how, context, *sampled, seed, split_bytes, repository, texts, bench
    )
    _check(settings, bool(calibration or evaluation), stream, private)
    machine = {"threads": threads, "gpu_layers": gpu_layers, "progress": progress}
    streaming = _stream(repository, private, progress) if stream else None
    found = _source(source, remote)
    with _folder(Path(os.path.abspath(out)), name_of(found)) as folder:
        books = folder / "release.json"
        run = Run(settings, machine, streaming.ledger(books) if streaming else Ledger(books))
        given = dict(zip(_TEXTS, (calibration, evaluation), strict=True))
        named = base_model or (str(source).partition("@")[0] if remote else None)
        page = _release(run, found, given, named, streaming)
    if streaming:
        streaming.publish(run)
    return page


def _stream(repository: str | None, private: bool, progress: Progress) -> Stream:
    from quantpress.stream import Stream  # half a second that a folder here does not need

    return Stream(repository, private, progress)


def _source(source: str | Path, remote: bool) -> Path | Repository:
    """A folder or file here, or a repository at the commit that it now stands for."""
    if not remote:
        return Path(os.path.abspath(source))
    from quantpress.hub import pinned  # half a second that a folder does not need

    return pinned(str(source))


def _release(
    run: Run,
    source: Path | Repository,
    given: Mapping[str, Sequence[str | Path]],
    base_model: str | None,
    stream: Stream | None,
) -> Path:
    settings, ledger = run.settings, run.ledger
    _note_gone(run, stream)
    ledger.facts = {"version": 1, "quantpress": version("quantpress"), "engine": about()}
    ledger.facts |= {"settings": asdict(settings), "base_model": base_model}
    if stream:
        with stream.base_to_be(run, source) as (base, unwritten):
            stream.forecast(run, base, unwritten, _plans(run, base, given["calibration"])[1], given["evaluation"])
    base = base_of(source, ledger, settings.variants, settings.split_bytes, run.machine["progress"])
    for purpose, files in given.items():
        window = max(settings.context, CONTEXT) if settings.targets else settings.context
        check_text(purpose, files, base, window, settings.chat)
    plans, sizes = _plans(run, base, given["calibration"])
    if not stream:
        _check_space(run, base, sizes)
    texts = _texts(run, base, given)
    importance = _importance(run, base, texts["calibration"])
    automatic = automatic_plans(run, base, importance, texts)
    results = opened(run, base, texts["evaluation"])
    variants = _kept(run, base, _variants(run, base, importance, plans, automatic), results)
    for names in stream.rounds(run, variants) if stream else [list(variants)]:
        found = _made(run, base, importance, {name: variants[name] for name in names})
        damage(run, base, found, texts["evaluation"], results)
        memory(run, found, results)
        speed(run, found, results)
        if stream:
            stream.send(run, base, found)
        variants |= found
    plans = {name: found.plan for name, found in variants.items()}
    page = write_pages(run, base, plans, described(run, base, variants, results), importance, base_model)
    _note_left(run)
    return page


def _note_gone(run: Run, stream: Stream | None) -> None:
    """Say what an earlier run with `stream` sent and removed that this one cannot count on."""
    if run.ledger.gone:
        why = "not there any more as it was sent" if stream else "and this one does not stream"
        names = ", ".join(run.ledger.gone)
        run.machine["progress"].note(f"an earlier run sent to the Hub, {why}; made again if it is asked for: {names}")


def _note_left(run: Run) -> None:
    if run.ledger.unlisted:
        left = ", ".join(file.relative_to(run.folder).as_posix() for file in run.ledger.unlisted)
        run.machine["progress"].note(f"made by earlier runs, no part of this release, left in its folder: {left}")


def _texts(run: Run, base: Base, given: Mapping[str, Sequence[str | Path]]) -> dict[str, Text]:
    """The calibration and the evaluation text, given or written by the model, and what release.json says of them."""
    tokens = {"calibration": run.settings.calibration_tokens, "evaluation": run.settings.evaluation_tokens}
    found, facts = {}, {}
    for purpose, files in given.items():
        text = text_of(purpose, files, base, run.ledger, tokens[purpose], run.settings.seed, run.machine)
        here = published(purpose, text, run.ledger) if run.settings.texts or text.by_model else []
        found[purpose] = text
        facts[purpose] = {"by_model": text.by_model, "sha256": text.sha256, "files": here}
    run.ledger.facts["texts"] = facts
    return found


def _check(settings: Settings, given_text: bool, stream: bool, private: bool) -> None:
    """What can be wrong with the settings, before any work."""
    encoder_named(settings.encoder, settings.effort)
    parse_spend(settings.budget)
    if private and not stream:
        hint = "`quantpress publish --private` sends a release that is made"
        raise InputError(None, "private", expected="stream, which makes a repository", found="no stream", hint=hint)
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
        ours = (f"{name}-*", *(f"{word}*" for word in ("README", "report", *_TEXTS, "release", "results")))
        folders = (f"{name}-*/", "plans/", "plots/", "work/")
        patterns = (*(f".{file}.partial" for file in ours), *(f"{folder}.*.partial" for folder in folders))
        for pattern in (*patterns, "work/quantpress-*"):
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


def _plans(run: Run, base: Base, calibration: Sequence[str | Path]) -> tuple[dict[str, Plan], dict[str, int]]:
    """A plan a recipe, and the bytes that each variant takes at most.

    Made before the importance matrix: that there will be one decides the types, and its name the size.
    """
    file = run.file(base, "imatrix").name
    info = ImatrixInfo(file, Path(calibration[0]).name if calibration else "calibration.txt", entries=0, chunks=1)
    with read(base.path) as model:
        extra = run.extra
        if run.settings.effort == COMPENSATED:
            extra = {**extra, **compensation_keys(info.dataset, 0)}
        facts: dict[str, Any] = {"imatrix": info, "extra": extra, "progress": run.machine["progress"]}
        plans = {name: plan(model, type=name, **facts) for name in run.settings.recipes}
        sizes = {name: found.bytes for name, found in plans.items()}
        sizes |= {target.name: most_bytes(model, target, run, info, extra) for target in run.settings.targets}
    return plans, sizes


def _check_space(run: Run, base: Base, sizes: Mapping[str, int]) -> None:
    """Raise DiskFullError if the disk has no room for what is not there yet."""
    needed = sum(size for name, size in sizes.items() if not run.ledger.files_of(run.file(base, name)))
    free = shutil.disk_usage(run.folder).free
    if needed > free:
        raise DiskFullError(run.folder, needed, free)


def _importance(run: Run, base: Base, text: Text) -> Path:
    """The importance matrix of the base for the calibration text."""
    path = run.file(base, "imatrix")
    chat = run.settings.chat and not text.by_model
    settings: dict[str, Any] = {"context": run.settings.context, "chat": chat, "process_output": True}
    made_from = run.made_from("imatrix", base.sha256, text.sha256, settings)
    moments = run.moments(base)
    if moments is not None:
        made_from = digest([made_from, "moments"])
    if not run.ledger.kept(made_from):
        imatrix(base.path, text=text.files, out=path, moments=moments is not None, **settings, **run.machine)
        if moments is not None:
            beside(path).replace(moments)
        run.ledger.record([path] if moments is None else [path, moments], made_from)
    return path


def _variants(
    run: Run, base: Base, importance: Path, plans: Mapping[str, Plan], automatic: Mapping[str, Automatic]
) -> dict[str, Variant]:
    """Every variant as it is to be made; its plan is written."""
    info = read_imatrix(importance).info
    finals = {name: replace(provisional, imatrix=info) for name, provisional in plans.items()}
    for name, final in finals.items():
        _write_plan(run, base, name, final)
    finals |= {name: found.plan for name, found in automatic.items()}
    how = [run.settings.encoder, run.settings.effort, run.settings.repository]
    statistics = [importance] if (moments := run.moments(base)) is None else [importance, moments]
    sources = base.sha256, *map(run.ledger.sha256, statistics)
    digests = {name: run.made_from(name, *sources, final.to_json(), how) for name, final in finals.items()}
    how_found = {name: one.allocation for name, one in automatic.items()}
    return {name: Variant(finals[name], digests[name], how_found.get(name)) for name in run.settings.variants}


def _kept(run: Run, base: Base, variants: Mapping[str, Variant], results: Results) -> dict[str, Variant]:
    """The variants with those files that are what would be made, split as asked; on the Hub only if all is known."""
    found = {}
    for name, variant in variants.items():
        is_base = name == "BF16" and base.published
        one = replace(variant, parts=base.parts if is_base else tuple(run.ledger.kept(variant.made_from)))
        if any(map(run.ledger.remote, one.parts)):
            small = all(run.ledger.bytes(part) <= run.settings.split_bytes for part in one.parts)
            if not (small and complete(run, results, name, run.hashes(one))):
                why = "not measured in this way or here" if small else "in larger parts"
                run.machine["progress"].note(f"{name}: on the Hub, but {why}: made again")
                one = variant
        elif one.parts:
            parts = in_parts(one.parts, run.settings.split_bytes, run.ledger, run.machine["progress"])
            one = replace(one, parts=parts)
            renew(results.rows.get(name, {}), parts, run.ledger, results.facts.get("machine"))
        found[name] = one
    return found


def _made(run: Run, base: Base, importance: Path, variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """The variants with their files; those that are missing are made in one pass."""
    found = dict(variants)
    if missing := {name: variant for name, variant in variants.items() if not variant.parts}:
        for page in (*pages(), "report.html"):
            (run.folder / page).unlink(missing_ok=True)  # they describe what is about to be replaced
        choices: Choices = {}
        files = _quantize(run, base, importance, missing.values(), choices)
        for (name, variant), first in zip(missing.items(), files, strict=True):
            found[name] = replace(variant, parts=tuple(part_files(first)))
            how = compensated(choices, variant.plan)
            run.ledger.record(found[name].parts, variant.made_from, **({"compensated": how} if how else {}))
    return found


def _write_plan(run: Run, base: Base, name: str, final: Plan) -> None:
    path = run.plan_file(base, name)
    made_from = digest(["plan", name, final.to_json()])
    if not run.ledger.kept(made_from):
        make_folder(path.parent)
        final.write(path)
        run.ledger.record([path, path.with_suffix(".tensor_types.txt")], made_from)


def _quantize(run: Run, base: Base, importance: Path, missing: Iterable[Variant], choices: Choices) -> list[Path]:
    return quantize(
        base.path,
        plans=[variant.plan for variant in missing],
        imatrix=importance,
        out=run.folder,
        encoder=run.settings.encoder,
        effort=run.settings.effort,
        moments=run.moments(base),
        allow_plain=run.settings.allow_plain,
        choices=choices,
        split_bytes=run.settings.split_bytes,
        extra=run.extra,
        threads=run.machine["threads"],
        progress=run.machine["progress"],
    )
