"""What a release says of its files, measured on the bytes that are shipped: damage, memory, speed, into results.json.

What was measured on the same bytes in the same way is kept. Damage depends on base, text and protocol (see results.py),
memory on the file and llama.cpp, speed on the machine too: on another one all files are timed again.

Variants may be measured in several calls, each with files that lie here meanwhile (stream.py); results.json is saved
after each. The base is then run once a call: its distributions take more room than most files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantpress import text as texts
from quantpress.benchmark import machine, speeds
from quantpress.card import type_groups
from quantpress.engine import Engine
from quantpress.evaluate import SCRATCH_LIMIT, affordable_chunks, evaluations, window_bytes
from quantpress.files import digest
from quantpress.gguf import read
from quantpress.inputs import Base, Text
from quantpress.ledger import Ledger
from quantpress.memory import footprint
from quantpress.names import model_name
from quantpress.results import BASE, Results
from quantpress.run import Run, Variant

__all__ = ["complete", "damage", "described", "memory", "opened", "renew", "scratch_bytes", "speed"]

_CONTEXT = 4096  # tokens, for the memory that the card speaks of
_TIMED: dict[str, Any] = {"prompts": (512,), "generations": (128,), "repeats": 3}


def opened(run: Run, base: Base, text: Text) -> Results:
    """results.json, with what was measured on this text in this way, and the machine that speeds will be of."""
    protocol = run.made_from("results", base.sha256, text.sha256, _protocol(run, base, text.by_model))
    results = Results(run.folder / "results.json", protocol)
    if run.settings.bench:
        results.facts["machine"] = machine(run.machine["threads"], run.machine["gpu_layers"])
    return results


def complete(run: Run, results: Results, name: str, sha256: Sequence[str]) -> bool:
    """Whether all that this run measures is known of a variant whose parts have these hashes."""
    row = results.rows.get(name, {})
    timed = not run.settings.bench or _is_timed(row, results.facts["machine"])
    return results.keeps(name, sha256) and "memory" in row and timed


def scratch_bytes(run: Run, base: Base, files: Sequence[str | Path]) -> int:
    """What the distributions take that `damage` records of given text; without any, of what the model will write."""
    how, context = _protocol(run, base, not files), run.settings.context
    with Engine(base.path, vocab_only=True) as engine:
        vocab, windows = engine.info.vocab, run.settings.evaluation_tokens // context + 1
        if files:
            given = [Path(file) for file in files]
            windows = len(texts.chunks(engine, given, context, limit=how["chunks"], chat=how["chat"]))
    return min(windows, int(how["chunks"])) * window_bytes(vocab, context)


def damage(run: Run, base: Base, variants: Mapping[str, Variant], text: Text, results: Results) -> None:
    """Perplexity and divergence of every file whose bytes have not been measured on this text."""
    hashes = {name: run.hashes(found) for name, found in variants.items()}
    missing = [name for name in variants if not results.keeps(name, hashes[name])]
    others = [name for name in missing if variants[name].parts != base.parts]
    if others or not results.keeps(BASE, base.sha256):
        quants = [variants[name].parts[0] for name in others]
        settings = _protocol(run, base, text.by_model)
        scratch = run.folder / "work"
        measured = evaluations(base.path, quants, text=text.files, scratch=scratch, **settings, **run.machine)
        for name, found in zip([BASE, *others], measured, strict=True):
            results.enter(name, found.to_dict(), base.sha256 if name == BASE else hashes[name])
    for name in missing:
        if variants[name].parts == base.parts:
            results.enter(name, results.rows[BASE], hashes[name])


def _protocol(run: Run, base: Base, by_model: bool) -> dict[str, Any]:
    """How damage is measured: as many windows as are wanted and have distributions that the scratch space may take."""
    with read(base.path) as model:
        affordable = affordable_chunks(len(model.get("tokenizer.ggml.tokens", ())), run.settings.context, SCRATCH_LIMIT)
    return {
        "context": run.settings.context,
        "chunks": min(run.settings.evaluation_chunks, affordable),
        "chat": run.settings.chat and not by_model,
    }


def memory(run: Run, variants: Mapping[str, Variant], results: Results) -> None:
    """What llama.cpp takes of the memory for each file, with 4,096 tokens of context in F16."""
    missing = {name: found for name, found in variants.items() if "memory" not in results.rows[name]}
    if not missing:
        return
    with run.machine["progress"].task("memory", len(missing), "files") as advance:
        for name, found in missing.items():
            taken = footprint(found.parts[0], context=_CONTEXT, outputs=1)
            results.rows[name]["memory"] = {**asdict(taken), "total": taken.total}
            advance(1)
    results.save(list(results.rows))


def speed(run: Run, variants: Mapping[str, Variant], results: Results) -> None:
    """Tokens a second of each file on this machine, where they are asked for."""
    if not run.settings.bench:
        return
    rows = {name: results.rows[name] for name in variants}
    machine = results.facts["machine"]
    missing = [name for name, row in rows.items() if not _is_timed(row, machine)]
    files = [variants[name].parts[0] for name in missing]
    where = {"threads": run.machine["threads"], "gpu_layers": run.machine["gpu_layers"]}
    for name, found in zip(missing, speeds(files, **_TIMED, **where, progress=run.machine["progress"]), strict=True):
        rows[name]["speed"] = {**found.to_dict(), "protocol": _timing(rows[name], machine)}
        results.save(list(results.rows))


def _timing(row: Mapping[str, Any], machine: Any) -> str:
    """A digest of the machine, the tests and the bytes that a speed is of."""
    return digest([machine, _TIMED, row.get("sha256")])


def _is_timed(row: Mapping[str, Any], machine: Any) -> bool:
    """Whether the speed of these bytes was measured in this way on this machine."""
    return bool(row.get("speed", {}).get("protocol") == _timing(row, machine))


def renew(row: dict[str, Any], parts: Sequence[Path], ledger: Ledger, machine: Any) -> None:
    """Let a row that was measured on these tensors in other files be that of `parts`; any other stays as it is.

    `machine`: what results.json says of it.
    """
    if row.get("sha256") not in ledger.earlier(parts[0]):
        return
    timed = _is_timed(row, machine)
    row |= {"sha256": [ledger.sha256(part) for part in parts], **_place(parts, ledger)}
    if timed:
        row["speed"]["protocol"] = _timing(row, machine)


def _place(parts: Sequence[Path], ledger: Ledger) -> dict[str, Any]:
    """Where a variant's files are, and their bytes."""
    return {
        "file": parts[0].relative_to(ledger.folder).as_posix(),
        "split": len(parts) > 1,
        "bytes": sum(map(ledger.bytes, parts)),
    }


def described(run: Run, base: Base, variants: Mapping[str, Variant], results: Results) -> dict[str, Any]:
    """Complete results.json with what a file is, beside how good it is; no byte of it is read."""
    with read(base.path) as model:
        types = {name: type_groups(found.plan.tensors, model) for name, found in variants.items()}
    for name, found in variants.items():
        results.rows[name] |= {
            "variant": name,
            **_place(found.parts, run.ledger),
            "bits_per_weight": found.plan.bits_per_weight,
            "types": types[name],
            **({"allocation": found.allocation} if found.allocation else {}),
            **({"compensated": how} if (how := run.ledger.compensated(found.parts[0])) else {}),
        }
        if not run.settings.bench:
            results.rows[name].pop("speed", None)  # of an earlier run: a page has all or none
    results.rows[BASE]["file"] = base.path.name
    results.facts |= {"model": model_name(base.path), "context": run.settings.context}
    return results.save([BASE, *variants])
