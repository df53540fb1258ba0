"""The whole way from a checkpoint to a release folder: the table of contents of the product.

    checkpoint → BF16 GGUF → text → imatrix → a plan a variant → files → measurements → card

Every step writes files, and every file is entered in release.json with the hash of what it was made from. A run that
follows an interrupted one, or has another setting, makes only what is missing or no longer matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantpress.card import write_card
from quantpress.convert import convert
from quantpress.engine import Engine, about
from quantpress.errors import InputError, OutputError, TextError
from quantpress.evaluate import evaluations
from quantpress.files import digest, file_digest
from quantpress.gguf import read
from quantpress.imatrix import imatrix
from quantpress.ledger import Ledger
from quantpress.names import model_name, part_files, variant_file
from quantpress.plan import Plan, plan
from quantpress.progress import SILENT, Progress
from quantpress.quantize import quantize
from quantpress.recipes import recipe
from quantpress.results import BASE, Results
from quantpress.selftext import write_samples

__all__ = ["CARD_VARIANTS", "release"]

# The release card's list, and the mixed-precision card's recipe.
CARD_VARIANTS = (
    *("BF16", "Q8_0", "Q6_K_L", "Q6_K", "Q5_K_L", "Q5_K_M", "Q5_K_S", "Q4_K_L", "Q4_1", "Q4_K_M", "Q3_K_XL", "Q4_K_S"),
    *(
        "Q4_0",
        "IQ4_NL",
        "IQ4_XS",
        "Q3_K_L",
        "Q3_K_M",
        "IQ3_M",
        "Q3_K_S",
        "Q2_K_L",
        "IQ3_XS",
        "Q2_K",
        "IQ3_XXS",
        "IQ2_M",
    ),
    "MP",
)


@dataclass(frozen=True)
class Settings:
    """What decides the bytes and the numbers of a release, beside its source and its texts."""

    variants: tuple[str, ...]
    chat: bool
    encoder: str
    context: int
    calibration_tokens: int
    evaluation_tokens: int
    evaluation_chunks: int
    seed: int
    split_bytes: int


@dataclass(frozen=True)
class _Run:
    """What every step is given: how, on what machine, and what is made already."""

    settings: Settings
    threads: int | None
    gpu_layers: int
    ledger: Ledger
    progress: Progress

    @property
    def folder(self) -> Path:
        return self.ledger.folder

    @property
    def machine(self) -> dict[str, Any]:
        return {"threads": self.threads, "gpu_layers": self.gpu_layers, "progress": self.progress}


@dataclass(frozen=True)
class _Text:
    """Text files, who wrote them, and their hashes."""

    files: tuple[Path, ...]
    by_model: bool
    sha256: dict[str, str]

    @property
    def description(self) -> str:
        return (
            "text that the model wrote itself" if self.by_model else ", ".join(f"`{file.name}`" for file in self.files)
        )


def release(
    source: str | Path,
    *,
    out: str | Path,
    variants: Sequence[str] = CARD_VARIANTS,
    calibration: Sequence[str | Path] = (),
    evaluation: Sequence[str | Path] = (),
    chat: bool = False,
    encoder: str = "ggml",
    context: int = 512,
    calibration_tokens: int = 64 * 512,
    evaluation_tokens: int = 32 * 512,
    evaluation_chunks: int = 128,
    seed: int = 0,
    split_bytes: int = 50 * 10**9,
    repository: str | None = None,
    threads: int | None = None,
    gpu_layers: int = 0,
    progress: Progress = SILENT,
) -> Path:
    """Make a release folder of a checkpoint (or of its BF16, F16 or F32 GGUF file) and return its card.

    Args:
        source: a Hugging Face checkpoint folder, or a GGUF file in float.
        out: the folder; made if missing, completed if a run was interrupted.
        variants: recipe names, see `recipes.RECIPES`.
        calibration: text files for the imatrix; without them the model writes its own.
        evaluation: text files to measure on; without them the model writes others.
        calibration_tokens: about so many tokens it writes to calibrate on.
        evaluation_tokens: about so many tokens it writes to measure on.
        chat: render given text through the model's chat template.
        encoder: who encodes the weights.
        context: tokens a window, for the imatrix and for the measurements.
        evaluation_chunks: measure on at most so many windows.
        seed: of the text that the model writes.
        split_bytes: larger files are split in parts of at most this size.
        repository: `user/name` on the Hub, for the card's commands.
        threads: CPU threads, default all cores.
        gpu_layers: layers to keep on a GPU, -1 for all.
        progress: told of every step.

    Raises QuantpressError: see errors.py.
    """
    names = tuple(dict.fromkeys(recipe(variant).name for variant in variants))
    sampled = calibration_tokens, evaluation_tokens, evaluation_chunks
    settings = Settings(names, chat, encoder, context, *sampled, seed, split_bytes)
    _make_folder(Path(out) / "work")
    run = _Run(settings, threads, gpu_layers, Ledger(Path(out) / "release.json"), progress)
    facts = run.ledger.facts = {"version": 1, "quantpress": version("quantpress"), "engine": about()}
    facts["settings"] = asdict(settings)

    base = _base(Path(source), run)
    texts = {
        "calibration": _text(run, base, "calibration", calibration, calibration_tokens),
        "evaluation": _text(run, base, "evaluation", evaluation, evaluation_tokens),
    }
    facts["texts"] = {purpose: {"by_model": text.by_model, "sha256": text.sha256} for purpose, text in texts.items()}
    importance = _importance(run, base, texts["calibration"])
    files = _files(run, base, importance)
    results = _describe(run, base, files, _measure(run, base, files, texts["evaluation"]))
    words = {f"{purpose}_text": text.description for purpose, text in texts.items()}
    with read(base) as model:
        page = write_card(run.folder, results, facts, model, imatrix=importance.name, repository=repository, **words)
    run.ledger.record([page, run.folder / "results.json"], digest(["page", results]))
    return page


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _base(source: Path, run: _Run) -> Path:
    """The float GGUF that everything is made from and measured against; converted unless it is one."""
    if source.is_file():
        run.ledger.facts["source"] = {"path": source.name, "sha256": file_digest(source)}
        return source
    if not source.is_dir():
        raise InputError(source, "source", expected="a checkpoint folder or a GGUF file", found="nothing there")
    base = variant_file(run.folder, model_name(source), "BF16")
    hashes = {file.name: file_digest(file) for file in sorted(source.iterdir()) if file.is_file()}
    origin = run.ledger.facts["source"] = {"path": source.resolve().name, "sha256": hashes}
    made_from = digest(["base", origin])
    if not run.ledger.kept(made_from):
        convert(source, base, progress=run.progress)
        run.ledger.record([base], made_from)
    return base


def _text(run: _Run, base: Path, purpose: str, files: Sequence[str | Path], tokens: int) -> _Text:
    """The given files, or one that the model writes."""
    if files:
        given = tuple(Path(file) for file in files)
        for file in given:
            if not file.is_file():
                raise TextError(file, purpose, expected="a text file", found="none there")
        return _Text(given, False, {file.name: file_digest(file) for file in given})
    written = run.folder / "work" / f"{purpose}.txt"
    made_from = digest([purpose, run.ledger.facts["source"], run.ledger.facts["engine"], tokens, run.settings.seed])
    if not run.ledger.kept(made_from):
        with Engine(base, threads=run.threads, gpu_layers=run.gpu_layers) as engine:
            write_samples(engine, written, purpose, tokens, run.settings.seed, run.progress)
        run.ledger.record([written], made_from)
    return _Text((written,), True, {written.name: run.ledger.sha256(written)})


def _importance(run: _Run, base: Path, text: _Text) -> Path:
    """The importance matrix of the base for the calibration text."""
    path = variant_file(run.folder, model_name(base), "imatrix")
    chat = run.settings.chat and not text.by_model
    engine = run.ledger.facts["engine"]
    made_from = digest(["imatrix", run.ledger.facts["source"], engine, text.sha256, run.settings.context, chat])
    if not run.ledger.kept(made_from):
        imatrix(base, text=text.files, out=path, context=run.settings.context, chat=chat, **run.machine)
        run.ledger.record([path], made_from)
    return path


def _files(run: _Run, base: Path, importance: Path) -> dict[str, tuple[Plan, list[Path]]]:
    """Variant to its plan and its file (or its parts); those that are missing are made in one pass."""
    made: dict[str, tuple[Plan, list[Path]]] = {}
    missing: dict[str, tuple[Plan, str]] = {}
    for name in run.settings.variants:
        found = plan(base, type=name, imatrix=importance, progress=run.progress)
        path = variant_file(run.folder, model_name(base), name)
        found.write(run.folder / "work" / path.with_suffix(".plan.json").name)
        how = [run.ledger.sha256(importance), found.to_json(), run.settings.encoder, run.settings.split_bytes]
        made_from = digest([name, run.ledger.facts["source"], *how])
        if path.resolve() == base.resolve():
            made[name] = (found, [base])
        elif kept := run.ledger.kept(made_from):
            made[name] = (found, kept)
        else:
            missing[name] = (found, made_from)
    if missing:
        plans = [found for found, _ in missing.values()]
        outputs = quantize(
            base,
            plans=plans,
            imatrix=importance,
            out=run.folder,
            encoder=run.settings.encoder,
            split_bytes=run.settings.split_bytes,
            threads=run.threads,
            progress=run.progress,
        )
        for (name, (found, made_from)), first in zip(missing.items(), outputs, strict=True):
            made[name] = (found, part_files(first))
            run.ledger.record(made[name][1], made_from)
    return {name: made[name] for name in run.settings.variants}


def _measure(run: _Run, base: Path, files: Mapping[str, tuple[Plan, list[Path]]], text: _Text) -> Results:
    """Perplexity and divergence of every file whose bytes have not been measured on this text."""
    chat = run.settings.chat and not text.by_model
    settings: dict[str, Any] = {"context": run.settings.context, "chunks": run.settings.evaluation_chunks, "chat": chat}
    results = Results(run.folder / "results.json", digest([text.sha256, settings, run.ledger.facts["engine"]]))
    paths = {BASE: [base], **{name: parts for name, (_, parts) in files.items()}}
    hashes = {name: [_sha256(run, base, part) for part in parts] for name, parts in paths.items()}
    missing = [name for name in files if not results.keeps(name, hashes[name])]
    if missing or not results.keeps(BASE, hashes[BASE]):
        others = [name for name in missing if paths[name] != [base]]
        quants = [paths[name][0] for name in others]
        measured = evaluations(base, quants, text=text.files, **settings, **run.machine)
        for name, found in zip([BASE, *others], measured, strict=True):
            results.enter(name, found.to_dict(), hashes[name])
    for name in missing:
        if paths[name] == [base]:
            results.enter(name, results.rows[BASE], hashes[name])
    return results


def _sha256(run: _Run, base: Path, file: Path) -> str:
    source: str | dict[str, str] = run.ledger.facts["source"]["sha256"]
    return source if file == base and isinstance(source, str) else run.ledger.sha256(file)


def _describe(run: _Run, base: Path, files: Mapping[str, tuple[Plan, list[Path]]], results: Results) -> dict[str, Any]:
    """Complete results.json with what a file is, beside how good it is."""
    for name, (found, parts) in files.items():
        results.rows[name] |= {
            "variant": name,
            "file": parts[0].relative_to(run.folder).as_posix(),
            "split": len(parts) > 1,
            "bytes": sum(part.stat().st_size for part in parts),
            "bits_per_weight": found.bits_per_weight,
        }
    results.rows[BASE]["file"] = base.name
    results.facts = {"model": model_name(base), "context": run.settings.context}
    return results.save([BASE, *files])
