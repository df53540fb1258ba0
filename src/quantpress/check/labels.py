"""Names: what the Hub, llama-server, LM Studio and Ollama make of them; and sizes, against the Hub's limits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from quantpress.check.books import Books, Model
from quantpress.check.finding import Finding, error, note, warning
from quantpress.names import default_file, found_by_tag, hidden, hub_label, tag
from quantpress.sizes import human_size

__all__ = ["check"]

_PLAIN = re.compile(r"[A-Za-z0-9._+/-]+")
_ADVISED, _LIMIT = 200 * 10**9, 500 * 10**9  # of the Hub, a file
_SPLIT = "Make the release with a smaller --split-gb"


def check(books: Books, models: Sequence[Model]) -> list[Finding]:
    """Findings about the names and sizes of what is to be published."""
    found = [finding for model in models for finding in (*_name(model), *_split(books, model))]
    found += [finding for name, entry in books.entries.items() for finding in _size(name, entry["bytes"])]
    return found + _tags(books, models) + _default(models)


def _name(model: Model) -> list[Finding]:
    found = []
    if not _PLAIN.fullmatch(model.file):
        found.append(warning(model.file, "a name of other letters than A-Z a-z 0-9 . _ + -", "Rename the model"))
    if hidden(model.file):
        what = "its name makes llama-server -hf take it for no model (mmproj, imatrix, mtp-, eagle3-, dflash-, dspark-)"
        found.append(error(model.file, what, "Rename the model"))
    if hub_label(model.file) is None:
        what = "Hugging Face reads no quantization label from the name: its buttons name no such file, nor does Ollama"
        found.append(warning(model.file, what, "The card must say that it is taken by its file name"))
    return found


def _split(books: Books, model: Model) -> list[Finding]:
    missing = [part for part in model.parts if part not in books.entries]
    found = [error(part, "a part that release.json does not know", "Make the release again") for part in missing]
    if model.split:
        found.append(note(model.file, f"split in {len(model.parts)} parts, which Ollama cannot pull"))
    return found


def _size(name: str, nbytes: int) -> list[Finding]:
    if nbytes > _LIMIT:
        return [error(name, f"{human_size(nbytes)}: the Hub takes at most {human_size(_LIMIT)} a file", _SPLIT)]
    if nbytes > _ADVISED:
        return [warning(name, f"{human_size(nbytes)}: the Hub advises at most {human_size(_ADVISED)} a file", _SPLIT)]
    return []


def _tags(books: Books, models: Sequence[Model]) -> list[Finding]:
    """A finding for each tag that names more than one file."""
    files = [model.file for model in models]
    owners = defaultdict(list)
    for file in files:
        owners[tag(file, books.model).upper()].append(file)
    found = []
    for name, own in owners.items():
        others = [file for file in found_by_tag(name, files) if file not in own]
        if len(own) > 1:
            what = f"the Hub, llama-server and Ollama know {len(own)} files as :{name}: {', '.join(own)}"
            found.append(error(own[0], what, "Give each variant a label of its own"))
        elif others:
            what = f"llama-server -hf …:{name} may take {' or '.join(others)}: that name has the tag in it, too"
            found.append(warning(own[0], what, "Take it by its name: llama-server -hf user/repo -hff FILE"))
    return found


def _default(models: Sequence[Model]) -> list[Finding]:
    file = default_file(model.file for model in models)
    if file is None or hub_label(file) == "Q4_K_M":
        return []
    return [note(file, "what llama-server -hf takes without a tag: there is no Q4_K_M")]
