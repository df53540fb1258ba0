"""One run of a release: its settings, its machine, its folder and its books. What every step is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.allocation import Target
from quantpress.encoding import COMPENSATED
from quantpress.files import digest
from quantpress.gguf import Metadata, Value
from quantpress.inputs import Base
from quantpress.ledger import Ledger
from quantpress.moments import beside
from quantpress.names import model_name, variant_file
from quantpress.plan import Plan
from quantpress.recipes import is_stock

__all__ = ["Run", "Settings", "Variant"]


@dataclass(frozen=True)
class Settings:
    """What decides the bytes and the numbers of a release, beside its source and its texts."""

    variants: tuple[str, ...]  # names of recipes and of targets
    targets: tuple[Target, ...]  # of those variants that are planned automatically
    budget: str  # for each of them
    chat: bool
    encoder: str
    effort: str
    allow_plain: bool
    context: int
    calibration_tokens: int
    evaluation_tokens: int
    evaluation_chunks: int
    seed: int
    split_bytes: int
    repository: str | None
    texts: bool  # given ones are part of the release
    bench: bool

    @property
    def recipes(self) -> list[str]:
        """The variants that a recipe makes."""
        automatic = {target.name for target in self.targets}
        return [name for name in self.variants if name not in automatic]


@dataclass(frozen=True)
class Run:
    """How, on what machine (threads, gpu_layers, progress), and what is made already."""

    settings: Settings
    machine: dict[str, Any]
    ledger: Ledger

    @property
    def folder(self) -> Path:
        """The release folder."""
        return self.ledger.folder

    @property
    def extra(self) -> Metadata:
        """What the files say of where they are published."""
        url = f"https://huggingface.co/{self.settings.repository}"
        return {"general.repo_url": Value.string(url)} if self.settings.repository else {}

    def file(self, base: Base, variant: str) -> Path:
        """Where a variant's model is written, or its first part."""
        return variant_file(self.folder, model_name(base.path), variant)

    def plan_file(self, base: Base, variant: str) -> Path:
        """Where its `plan.json` is written: in public, if its name does not say what it is."""
        folder = "work" if is_stock(variant) else "plans"
        return self.folder / folder / self.file(base, variant).with_suffix(".plan.json").name

    def moments(self, base: Base) -> Path | None:
        """Where the second moments are written, if they are wanted: in private, since they are large."""
        if self.settings.effort != COMPENSATED:
            return None
        return self.folder / "work" / beside(self.file(base, "imatrix")).name

    def hashes(self, variant: Variant) -> list[str]:
        """Of a variant's parts."""
        return [self.ledger.sha256(part) for part in variant.parts]

    def made_from(self, step: str, *sources: Any) -> str:
        """A digest of what a file is made from; with the versions, so that a better encoder makes a new one."""
        engine = [self.ledger.facts["engine"], self.machine["gpu_layers"]]
        return digest([step, self.ledger.facts["quantpress"], engine, *sources])


@dataclass(frozen=True)
class Variant:
    """A plan for the model, what its files are made from (a digest), and how it was found if it is an automatic one.

    `parts`: its file or the parts of it; none before it is made, and perhaps on the Hub only (stream.py).
    """

    plan: Plan
    made_from: str
    allocation: dict[str, Any] | None = None
    parts: tuple[Path, ...] = ()
