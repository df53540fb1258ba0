"""The headers of the models: parts that belong together, the keys that a quantized file needs, one model in all files.

All files are made from the float model: whatever quantization does not set is the same in each, tokenizer and chat
template included, and so are the tensors' names and shapes. The float model is the reference, where it is in the
folder; the first file otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantpress import gguf
from quantpress.check.books import Books, Model
from quantpress.check.finding import Finding, error, note, warning
from quantpress.errors import GGUFError, ImatrixError
from quantpress.gguf import GGUF
from quantpress.imatrix import check_model
from quantpress.imatrix import read as read_imatrix
from quantpress.metadata import QUANTIZATION_VERSION
from quantpress.names import hub_label
from quantpress.recipes import RECIPES

__all__ = ["check", "imatrices", "opened", "reference"]

_OWN = ("general.quantization_version", "general.file_type", "general.quantized_by", "general.repo_url")
_OWN_PREFIXES = ("quantize.", "split.")
_AGAIN = "Make the file again"


def opened(books: Books, models: Sequence[Model]) -> tuple[dict[str, GGUF], list[Finding]]:
    """The headers by the models' file, closed; and a finding for each that cannot be read."""
    found, malformed = {}, []
    for model in models:
        try:
            with gguf.read(books.folder / model.file) as file:
                found[model.file] = file
        except GGUFError as problem:
            malformed.append(error(model.file, str(problem).replace(f"{books.folder}/", ""), _AGAIN))
    return found, malformed


def imatrices(books: Books, files: Mapping[str, GGUF], names: Iterable[str]) -> list[Finding]:
    """A finding for each published importance matrix that cannot be read or is another model's."""
    model = next(iter(files.values()), None)
    found = []
    for name in names:
        try:
            importance = read_imatrix(books.folder / name)
            if model is not None:
                check_model(importance, model)
        except (GGUFError, ImatrixError) as problem:
            found.append(error(name, str(problem).replace(f"{books.folder}/", ""), _AGAIN))
    return found


def reference(books: Books, files: Mapping[str, GGUF]) -> tuple[str, GGUF] | None:
    """The file that the others must agree with, and its name; None if there is none."""
    path = books.float_model
    if path is not None:
        name = path.relative_to(books.folder).as_posix()
        try:
            with gguf.read(path) as file:
                return name, file
        except GGUFError:  # reported where it is a file of the release; else it is of no use
            pass
    return next(iter(files.items()), None)


def check(books: Books, files: Mapping[str, GGUF]) -> list[Finding]:
    """Findings about the keys and tensors of the files."""
    found = reference(books, files)
    if found is None:
        return []
    name, base = found
    findings = _facts(name if name in files else next(iter(files), name), base)
    for file, model in files.items():
        findings += [*_same(file, model, name, base), *_own(books, file, model)]
    return findings


def _facts(file: str, base: GGUF) -> list[Finding]:
    """What the model itself does not say; it is the same in every file, and told once."""
    found = []
    architecture = base.get("general.architecture")
    if not base.get(f"{architecture}.context_length"):
        found.append(warning(file, f"no {architecture}.context_length: programs cannot tell how long a text may be"))
    for key, what in (("general.license", "no licence"), ("general.base_model.count", "no base model is named")):
        if base.get(key) is None:
            hint = "It comes from the front matter of the checkpoint's README.md"
            found.append(note(file, f"{what} in the files ({key})", hint))
    return found


def _same(file: str, model: GGUF, name: str, base: GGUF) -> list[Finding]:
    """Whether a file is the same model as the reference."""
    found = []
    keys = [key for key in {**base.metadata, **model.metadata} if key not in _OWN and not key.startswith(_OWN_PREFIXES)]
    if different := [key for key in keys if model.metadata.get(key) != base.metadata.get(key)]:
        found.append(error(file, f"other values than in {name}: {_some(different)}", _AGAIN))
    shapes = [{tensor.name: tensor.shape for tensor in one.tensors.values()} for one in (base, model)]
    if different := [key for key in {**shapes[0], **shapes[1]} if shapes[0].get(key) != shapes[1].get(key)]:
        found.append(error(file, f"other tensors than in {name}: {_some(different)}", _AGAIN))
    return found


def _own(books: Books, file: str, model: GGUF) -> list[Finding]:
    """The keys that say how a file was quantized."""
    if not any(tensor.type.quantized for tensor in model.tensors.values()):
        return []
    found = []
    if model.get("general.quantization_version") != QUANTIZATION_VERSION:
        version = model.get("general.quantization_version")
        what = f"general.quantization_version: expected {QUANTIZATION_VERSION}, found {version}"
        found.append(error(file, what, _AGAIN))
    if not model.get("general.quantized_by"):
        found.append(warning(file, "general.quantized_by: expected a name, found none"))
    if repository := books.settings.get("repository"):
        expected, url = f"https://huggingface.co/{repository}", model.get("general.repo_url")
        if url != expected:
            found.append(warning(file, f"general.repo_url: expected {expected}, found {url}", _AGAIN))
    return found + _file_type(file, model) + _imatrix(books, file, model)


def _file_type(file: str, model: GGUF) -> list[Finding]:
    """Whether the label is that of the mix that the file says it is."""
    number, label = model.get("general.file_type"), hub_label(file)
    if number is None:
        return [error(file, "general.file_type: expected llama.cpp's number, found none", _AGAIN)]
    named = RECIPES.get(label or "")
    if named is None or named.file_type == number:
        return []
    names = [recipe.name for recipe in RECIPES.values() if recipe.file_type == number]
    return [error(file, f"its name says {label}, general.file_type {' or '.join(names) or number}", _AGAIN)]


def _imatrix(books: Books, file: str, model: GGUF) -> list[Finding]:
    """Whether the importance matrix that it was made with is the one that is published."""
    published = {Path(name).name for name in books.imatrices}
    name = model.get("quantize.imatrix.file")
    if name is None:
        if published:
            return [warning(file, f"no quantize.imatrix.file, but {', '.join(published)} is in the release")]
        return []
    found = []
    for key in ("quantize.imatrix.file", "quantize.imatrix.dataset"):
        if set(model.get(key, "")) & {"/", "\\"}:
            found.append(warning(file, f"{key} is a path of somebody's machine: {model.get(key)}", _AGAIN))
    if Path(name).name not in published:
        found.append(warning(file, f"made with {name}, which is not in the release", "Publish it, too"))
    if not model.get("quantize.imatrix.entries_count"):
        found.append(warning(file, "quantize.imatrix.entries_count: expected a number, found none", _AGAIN))
    return found


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
