"""What a release starts from: the float model, converted unless it is a GGUF already, and the two texts.

All that can be wrong with them is found here, before hours of work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress import gguf
from quantpress import text as texts
from quantpress.convert import convert
from quantpress.engine import Engine
from quantpress.errors import InputError, TextError
from quantpress.files import digest, file_digest, write_text
from quantpress.ledger import Ledger
from quantpress.names import model_name, part_files, variant_file
from quantpress.parts import in_parts
from quantpress.progress import Progress
from quantpress.selftext import write_samples

if TYPE_CHECKING:
    from quantpress.hub import Repository

__all__ = ["Base", "Text", "base_of", "check_text", "name_of", "published", "text_of"]


@dataclass(frozen=True)
class Base:
    """The float model: its file or parts, the hashes by which it is known, whether it is itself a variant to publish.

    The hashes are those of the parts, or of what was made first, if it was split otherwise since.
    """

    parts: tuple[Path, ...]
    sha256: tuple[str, ...]
    published: bool

    @property
    def path(self) -> Path:
        """What readers open."""
        return self.parts[0]


@dataclass(frozen=True)
class Text:
    """Text files in order, their names and hashes, and who wrote them."""

    files: tuple[Path, ...]
    sha256: tuple[tuple[str, str], ...]
    by_model: bool

    @property
    def description(self) -> str:
        """A few words for the card."""
        names = ", ".join(f"`{file.name}`" for file in self.files)
        return "text that the model wrote itself" if self.by_model else names


def name_of(source: Path | Repository) -> str:
    """The model's name, which its files get."""
    return model_name(source if isinstance(source, Path) else source.name)


def base_of(
    source: Path | Repository, ledger: Ledger, variants: Sequence[str], split_bytes: int, progress: Progress
) -> Base:
    """The model that everything is made from and measured against; `ledger.facts["source"]` says where it comes from.

    A checkpoint is converted into the release folder if BF16 is one of its variants, else into its work folder.
    """
    if isinstance(source, Path) and source.is_file():
        parts = _float_parts(source)
        hashes = tuple(file_digest(part) for part in parts)
        ledger.facts["source"] = _origin(source, [part.name for part in parts], hashes)
        return Base(parts, hashes, False)
    ledger.facts["source"] = _checkpoint(source)
    made_from = digest(["base", ledger.facts["quantpress"], ledger.facts["source"]])
    published = "BF16" in variants
    wanted = variant_file(ledger.folder if published else ledger.folder / "work", name_of(source), "BF16")
    kept: Sequence[Path] = ledger.kept(made_from)
    if not kept:
        remote = not isinstance(source, Path)
        kept = part_files(convert(str(source), wanted, split_bytes=split_bytes, remote=remote, progress=progress))
        ledger.record(kept, made_from)
    kept = in_parts(kept, split_bytes, ledger, progress)
    parts = tuple(ledger.moved(kept, wanted.parent if len(kept) == 1 else wanted.with_suffix("")))
    return Base(parts, ledger.origin(parts), published)


def text_of(
    purpose: str,
    files: Sequence[str | Path],
    base: Base,
    ledger: Ledger,
    tokens: int,
    seed: int,
    machine: dict[str, Any],
) -> Text:
    """The given files, or about `tokens` tokens that the model writes into the release folder."""
    if files:
        given = tuple(Path(file) for file in files)
        return Text(given, tuple((file.name, file_digest(file)) for file in given), False)
    written = ledger.folder / f"{purpose}.txt"
    engine = [ledger.facts["engine"], machine["gpu_layers"]]
    made_from = digest([purpose, ledger.facts["quantpress"], base.sha256, engine, tokens, seed])
    if not ledger.kept(made_from):
        with Engine(base.path, threads=machine["threads"], gpu_layers=machine["gpu_layers"]) as running:
            write_samples(running, written, purpose, tokens, seed, machine["progress"])
        ledger.record([written], made_from)
    return Text((written,), ((written.name, ledger.sha256(written)),), True)


def published(purpose: str, text: Text, ledger: Ledger) -> list[str]:
    """The names of a text's files in the release folder: copies of those that were given, in their order."""
    if text.by_model:
        return [file.name for file in text.files]
    numbers = [""] if len(text.files) == 1 else [f"-{number}" for number in range(1, len(text.files) + 1)]
    names = [f"{purpose}{number}{file.suffix}" for number, file in zip(numbers, text.files, strict=True)]
    copies = [ledger.folder / name for name in names]
    made_from = digest(["text", purpose, text.sha256])
    if not ledger.kept(made_from):
        for file, copy in zip(text.files, copies, strict=True):
            if not (copy.exists() and file.samefile(copy)):
                write_text(copy, texts.read_text(file))
        ledger.record(copies, made_from)
    return names


def check_text(purpose: str, files: Sequence[str | Path], base: Base, context: int, chat: bool) -> None:
    """Raise TextError for given text that is unreadable, or too short for one window of `context` tokens."""
    for file in map(Path, files):
        if not file.is_file():
            raise TextError(file, purpose, expected="a text file", found="none there")
    if files:
        with Engine(base.path, vocab_only=True) as engine:
            texts.chunks(engine, [Path(file) for file in files], context, limit=1, chat=chat)


def _float_parts(source: Path) -> tuple[Path, ...]:
    """The files of a GGUF source; raises InputError where its weights are quantized already."""
    with gguf.read(source) as file:
        for name, tensor in file.tensors.items():
            if tensor.type.quantized and not tensor.type.trained:
                hint = "Start from the BF16, F16 or F32 file: quantizing twice adds the errors up"
                raise InputError(source, f"tensor {name}", expected="a float type", found=tensor.type.name, hint=hint)
        return tuple(file.paths)


def _checkpoint(source: Path | Repository) -> dict[str, Any]:
    """What a checkpoint is: the hashes of its files, or on the Hub its commit."""
    if not isinstance(source, Path):
        return {"repository": source.id, "commit": source.revision}
    if not source.is_dir():
        raise InputError(source, "source", expected="a checkpoint folder or a GGUF file", found="nothing there")
    names = _checkpoint_files(source)
    return _origin(source, names, [file_digest(source / name) for name in names])


def _checkpoint_files(folder: Path) -> list[str]:
    """What is in a checkpoint, hidden files and folders left out."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [str((Path(parent) / name).relative_to(folder)) for name in sorted(files) if not name.startswith(".")]
    return found


def _origin(source: Path, names: Sequence[str], hashes: Sequence[str]) -> dict[str, Any]:
    return {"path": source.name, "sha256": [list(pair) for pair in zip(names, hashes, strict=True)]}
