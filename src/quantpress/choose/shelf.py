"""What a release has to offer: its files, their sizes, how good each was measured to be, and their headers on demand.

A release is a folder or a repository of the Hub that quantpress made (then results.json says what was measured), any
other folder or repository of GGUF files, or one such file. A split model is one offer. Files that go with a model (a
vision projector, an importance matrix, a draft) are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress import gguf
from quantpress.errors import GGUFError, InputError
from quantpress.gguf import GGUF
from quantpress.names import first_part, hidden, part_files

__all__ = ["Offer", "Shelf", "shelf"]

_RESULTS = "results.json"
_GENERATION = "tg128"  # llama-bench's own; another tg test where it was not run


@dataclass(frozen=True)
class Offer:
    """A model that can be taken: `file` (of a split one the first part) in the release, and `bytes` of all parts.

    `kld_mean` is the divergence from the original in nats, `kld_error` its standard error, `speed` tokens generated a
    second; None where nobody measured them.
    """

    file: str
    bytes: int
    parts: int = 1
    kld_mean: float | None = None
    kld_error: float | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Shelf:
    """The offers of a release; `machine` is what their speed was measured on.

    `root` is the folder that the files are in, None for `repository` (`user/name`) at `revision`, if one was asked for.
    """

    name: str
    offers: tuple[Offer, ...]
    header: Callable[[Offer], GGUF]
    machine: str | None
    projector: bool  # there is a file that `llama-server -hf` would load too
    root: Path | None
    repository: str | None = None
    revision: str | None = None

    @property
    def measured(self) -> bool:
        """Whether the offers come with measurements: all of them, or none."""
        return self.offers[0].kld_mean is not None


def shelf(release: str | Path) -> Shelf:
    """Look at a release folder, a GGUF file, a folder of them, or `user/name[@revision]` on the Hub.

    Raises InputError for anything else, for a release without models and for a results.json that is damaged or of other
    files; GGUFError for a split model that is incomplete; CheckpointError and HubError as `hub.listing` does.
    """
    path = Path(release)
    if path.is_file():
        with gguf.read(path) as model:
            parts = [part.name for part in model.paths]
        return _local(release, path.parent, parts, None)
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in sorted(path.rglob("*.gguf"))]
        return _local(release, path, names, _text(path / _RESULTS))
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@.*)?", str(release)):
        return _remote(str(release))
    expected = "a folder or file that is there, or user/name of a repository on the Hub"
    raise InputError(None, "release", expected=expected, found=repr(str(release)))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "file", expected="readable UTF-8", found=error) from error


def _local(release: str | Path, root: Path, names: Iterable[str], results: str | None) -> Shelf:
    def header(offer: Offer) -> GGUF:
        with gguf.read(root / offer.file) as model:
            return model

    sizes = {name: (root / name).stat().st_size for name in names if not name.startswith(".") and "/." not in name}
    return Shelf(str(release), *_offers(root, sizes, header, results), root)


def _remote(name: str) -> Shelf:
    from quantpress.remote import opened  # half a second that a folder does not need

    there = opened(name)
    sizes = {file: there.files[file].size for file in sorted(there.files) if file.endswith(".gguf")}
    results = there.text(_RESULTS) if _RESULTS in there.files else None
    found = _offers(Path(there.repository.id), sizes, lambda offer: there.header(offer.file), results)
    return Shelf(name, *found, None, there.repository.id, there.repository.revision)


def _offers(
    root: Path, sizes: Mapping[str, int], header: Callable[[Offer], GGUF], results: str | None
) -> tuple[tuple[Offer, ...], Callable[[Offer], GGUF], str | None, bool]:
    """The fields of a shelf that follow from its files and results.json."""
    offers = [_offer(root, file, sizes) for file in sizes if not hidden(file) and first_part(file) == file]
    machine = None
    if results is not None and (values := _ours(root / _RESULTS, results)):
        offers = _measured(root / _RESULTS, offers, values)
        machine = _machine(values.get("machine") or {})
    if not offers:
        hint = "Models end in .gguf; projectors, importance matrices and drafts are no models"
        raise InputError(root, "files", expected="GGUF files of a model", found="none", hint=hint)
    return tuple(offers), header, machine, any("mmproj" in file for file in sizes)


def _machine(facts: Mapping[str, Any]) -> str | None:
    """What the speeds are of: a GPU's name, or the CPU's."""
    backend = facts.get("backend", "CPU")
    return facts.get("cpu") if backend == "CPU" else backend


def _offer(root: Path, file: str, sizes: Mapping[str, int]) -> Offer:
    parts = [(Path(file).parent / part.name).as_posix() for part in part_files(file)]
    for number, part in enumerate(parts, 1):
        if part not in sizes:
            where = f"part {number} of {len(parts)}"
            raise GGUFError(root / part, where, expected="a file", found="none", hint="Download all parts")
    return Offer(file, sum(sizes[part] for part in parts), len(parts))


def _ours(path: Path, text: str) -> dict[str, Any] | None:
    """What results.json says; None of one that another program wrote."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(path, "file", expected="JSON", found=error) from error
    return values if isinstance(values, dict) and isinstance(values.get("variants"), dict) else None


def _measured(path: Path, offers: list[Offer], values: Mapping[str, Any]) -> list[Offer]:
    """Those offers that results.json has a row of: the others are no part of the release."""
    by_file = {offer.file: offer for offer in offers}
    found = []
    for name, row in values["variants"].items():
        try:
            file, size, kld, error = row["file"], row["bytes"], float(row["kld_mean"]), float(row["kld_error"])
            offer, speed = by_file.get(file), _speed(row)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise InputError(path, f"variants.{name}", expected="a row of measurements", found=repr(problem)) from None
        if offer is None:
            continue  # of a release of which only some files were fetched
        if offer.bytes != size:
            hint = "The file is not the one that was measured. Fetch it again, or make the release again"
            raise InputError(
                path, f"variants.{name}.bytes", expected=f"{offer.bytes:,}, as {file} has", found=f"{size:,}", hint=hint
            )
        found.append(Offer(file, size, offer.parts, kld, error, speed))
    return found


def _speed(row: Mapping[str, Any]) -> float | None:
    tests = {test["test"]: float(test["mean"]) for test in (row.get("speed") or {}).get("tests", ())}
    generation = [mean for name, mean in tests.items() if name.startswith("tg")]
    return tests.get(_GENERATION, generation[0] if generation else None)
