"""A small release, made once a run, and ways to damage a copy of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quantpress import gguf
from quantpress.check import Finding, check
from quantpress.gguf import Metadata, TensorSpec, Writer
from quantpress.release import release
from quantpress.sizes import human_size
from tests import checkpoints

VARIANTS = ("BF16", "Q8_0", "Q4_K_M")
PAGES = ("README.md", "README.zh.md")
BF16 = "tiny-BF16/tiny-BF16-00001-of-00002.gguf"
TEMPLATE = "tokenizer.chat_template"
Q8_0, Q4_K_M = "tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"


def made(factory: pytest.TempPathFactory) -> Path:
    """A release of a model of two layers, its BF16 file in two parts; its checkpoint lies beside it."""
    return _made(factory.getbasetemp() / "small-release")


@cache
def _made(folder: Path) -> Path:
    folder.mkdir()
    text = folder / "text.txt"
    text.write_text((Path(__file__).parents[1] / "data" / "prose.txt").read_text()[:8000])
    release(
        checkpoints.tiny(folder / "tiny"),
        out=folder / "release",
        variants=VARIANTS,
        calibration=[text],
        evaluation=[text],
        context=64,
        evaluation_chunks=2,
        split_bytes=380_000,
        repository="acme/tiny-GGUF",
        bench=False,
    )
    return folder / "release"


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the value in a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def record(folder: Path, *names: str) -> None:
    """Vouch for the files as they are now, in release.json and in results.json."""
    facts, results = (json.loads((folder / name).read_text()) for name in ("release.json", "results.json"))
    for name in names:
        entry = _entry(folder / name)
        before = facts["files"].setdefault(name, {}).get("sha256")
        facts["files"][name].update(entry)
        for row in results["variants"].values():
            row["sha256"] = [entry["sha256"] if one == before else one for one in row["sha256"]]
            row["bytes"] = entry["bytes"] if row["file"] == name and not row["split"] else row["bytes"]
    (folder / "results.json").write_text(json.dumps(results))
    facts["files"]["results.json"].update(_entry(folder / "results.json"))
    (folder / "release.json").write_text(json.dumps(facts))


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def rename(folder: Path, old: str, new: str) -> None:
    """Give a file another name everywhere: in the folder, the books and the card."""
    (folder / old).rename(folder / new)
    for name in (*PAGES, "results.json", "release.json"):
        (folder / name).write_text((folder / name).read_text().replace(old, new))
    record(folder, *PAGES)


def rewrite(path: Path, change: Callable[[Metadata], Any]) -> None:
    """Change the metadata of a GGUF file; what it says of parts stays."""
    with gguf.read(path) as file:
        metadata = dict(file.metadata)
        data = {name: file.data(name).copy() for name in file.tensors}
        specs = [TensorSpec(one.name, one.shape, one.type) for one in file.tensors.values()]
    change(metadata)
    path.unlink()
    with Writer(path, metadata, specs) as writer:
        for name, rows in data.items():
            writer.write(name, 0, rows)


def resize(folder: Path) -> None:
    """Give the pages the sizes of the files as they are now."""
    rows = json.loads((folder / "results.json").read_text())["variants"].values()
    for page in PAGES:
        text = (folder / page).read_text()
        for row in rows:
            name = re.escape(str(Path(row["file"]).parent) if row["split"] else row["file"])
            pattern = rf"(?m)^(\|.*{name}.*?\| )[\d.]+\s[kM]?B"
            text = re.sub(pattern, lambda found, row=row: found[1] + human_size(row["bytes"]), text)
        (folder / page).write_text(text)
    record(folder, *PAGES)


@cache
def of_the_sound_one(made: Path) -> list[Finding]:
    return check(made, fast=True)


def added(folder: Path, made: Path, **how: Any) -> list[Finding]:
    """What is told of a copy and not of the sound release, of whichever file: a note on all of them names one."""
    known = {(finding.severity, finding.what) for finding in of_the_sound_one(made)}
    found = check(folder, **{"fast": True, **how})
    return [finding for finding in found if (finding.severity, finding.what) not in known]
