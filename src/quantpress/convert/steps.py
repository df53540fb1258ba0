"""What is done to the tensors of a checkpoint before they find their GGUF names: joined, cut, renamed.

A step is a function of all tensors by name and the configuration; those here make one. Patterns are regular expressions
for the whole name (of `renamed`: for a part of it); replacements use their groups. The order of the tensors is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Sources, Step
from quantpress.convert.sources import Source, joined, rows
from quantpress.errors import CheckpointError
from quantpress.safetensors import StoredTensor

__all__ = ["FUSED_EXPERTS", "cut", "experts", "rekeyed", "renamed", "trunk", "united", "without_copy"]

T = TypeVar("T", Source, StoredTensor)


def renamed(pattern: str, replacement: str) -> Step:
    """Other names for what the table of the `gguf` package does not list."""
    expression = re.compile(pattern)

    def step(sources: Sources, config: Section) -> Sources:
        del config
        return rekeyed(sources, lambda name: expression.sub(replacement, name))

    return step


def rekeyed(tensors: Mapping[str, T], name_of: Callable[[str], str]) -> dict[str, T]:
    """The same tensors under other names. Raises CheckpointError where two would get one name."""
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        new = name_of(name)
        if new in found:
            raise CheckpointError(tensor.path, tensor.name, expected=f"one tensor for {new}", found=found[new].name)
        found[new] = tensor
    return found


def experts(pattern: str = r"(.+\.experts)\.(\d+)\.(.+)", replacement: str = r"\1.\3") -> Step:
    """The matrices of a layer's experts, one tensor each, as one of three dimensions; group 2 is the expert's number.

    Raises CheckpointError where an expert is missing.
    """
    return _gathered(pattern, replacement, _stacked)


def _gathered(pattern: str, replacement: str, join: Callable[[str, dict[str, Source]], Source]) -> Step:
    """Tensors of one new name made one by `join`, which is given that name, and group 2 of the old names to tensor."""
    expression = re.compile(pattern)

    def step(sources: Sources, config: Section) -> Sources:
        del config
        groups: dict[str, dict[str, Source]] = {}
        found: Sources = {}
        for name, source in sources.items():
            if match := expression.fullmatch(name):
                whole = match.expand(replacement)
                groups.setdefault(whole, {})[match[2]] = source
                found[whole] = source  # its place
            else:
                found[name] = source
        return found | {name: join(name, group) for name, group in groups.items()}

    return step


def _stacked(name: str, numbered: dict[str, Source]) -> Source:
    group = {int(number): source for number, source in numbered.items()}
    missing = sorted(set(range(max(group) + 1)) - group.keys())
    if missing:
        path, expected = group[max(group)].path, f"experts 0 to {max(group)}"
        raise CheckpointError(path, name, expected=expected, found=f"no expert {', '.join(map(str, missing[:10]))}")
    parts = [group[number] for number in range(len(group))]
    return joined(parts, name, (len(parts), *parts[0].shape))


def cut(pattern: str, replacements: Sequence[str]) -> Step:
    """A matrix, or the matrices of all experts, of which each is so many others one below the other, of equal height.

    Raises CheckpointError where the rows cannot be shared out.
    """
    expression = re.compile(pattern)

    def step(sources: Sources, config: Section) -> Sources:
        del config
        found: Sources = {}
        for name, source in sources.items():
            if match := expression.fullmatch(name):
                for number, replacement in enumerate(replacements):
                    found[match.expand(replacement)] = _part(source, number, len(replacements))
            else:
                found[name] = source
        return found

    return step


def _part(source: Source, number: int, count: int) -> Source:
    *outer, height, width = source.shape
    if height % count:
        raise CheckpointError(source.path, f"{source.name}: rows", expected=f"a multiple of {count}", found=height)
    part = height // count
    if not outer:
        return rows(source, number * part, (part, width))
    pieces = [rows(source, at + number * part, (part, width)) for at in range(0, source.rows, height)]
    return joined(pieces, source.name, (*outer, part, width))


def united(pattern: str, parts: Sequence[str], replacement: str) -> Step:
    """What `cut` takes apart: matrices, or those of all experts, one below the other; group 2 is the part.

    Raises CheckpointError where a part is missing, or has another shape than the first.
    """
    return _gathered(pattern, replacement, lambda name, group: _below(name, group, parts))


def _below(name: str, group: Mapping[str, Source], parts: Sequence[str]) -> Source:
    first = next(iter(group.values()))
    if missing := [part for part in parts if part not in group]:
        raise CheckpointError(first.path, first.name, expected=f"{', '.join(parts)} of each", found=f"no {missing[0]}")
    for source in group.values():
        if source.shape != first.shape:
            expected = f"{list(first.shape)}, as {first.name}"
            raise CheckpointError(source.path, f"{source.name}: shape", expected=expected, found=list(source.shape))
    *outer, height, width = first.shape
    pieces = [rows(group[part], at, (height, width)) for at in range(0, first.rows, height) for part in parts]
    return joined(pieces, name, (*outer, len(parts) * height, width))


FUSED_EXPERTS = (
    experts(),
    renamed(r"(.+\.experts\.(?:gate_up|down)_proj)$", r"\1.weight"),
    cut(r"(.+\.experts)\.gate_up_proj\.weight", (r"\1.gate_proj.weight", r"\1.up_proj.weight")),
)
"""Experts one by one, or as transformers 5 has them in memory: all in one tensor, gate above up."""

_LAYER = re.compile(r"(?:model\.)?layers\.(\d{1,9})\..+")
_FURTHER = re.compile(r"(?:model\.)?layers\.(\d{1,9})\.enorm\.weight")  # of a layer that predicts further tokens
_EMBEDDING = re.compile(r"(?:model\.)?embed_tokens\.weight")
_OUTPUT = re.compile(r"(?:model\.)?lm_head\.weight")


def without_copy(sources: Sources, config: Section) -> Sources:
    """Without the output where `tie_word_embeddings` says that it is the embedding once more, and it is.

    One that differs stays, as transformers 5 keeps both apart then. llama.cpp's converter writes either, for most
    architectures; without the copy the file is smaller, and llama.cpp computes the same.
    """
    outputs = [name for name in sources if _OUTPUT.fullmatch(name)]
    embedding = next((source for name, source in sources.items() if _EMBEDDING.fullmatch(name)), None)
    if not config.get("tie_word_embeddings") or not outputs or embedding is None:
        return sources
    same = {name for name in outputs if _equal(sources[name], embedding)}
    return {name: source for name, source in sources.items() if name not in same}


def _equal(one: Source, other: Source) -> bool:
    if one.shape != other.shape or one.type != other.type:
        return False
    return all((one.read(*cut) == other.read(*cut)).all() for cut in one.cuts())


def trunk(sources: Sources, config: Section) -> Sources:
    """Without layers for the prediction of further tokens (MTP)."""
    layers = config.integer("num_hidden_layers")
    further = {match[1] for name in sources if (match := _FURTHER.fullmatch(name)) and int(match[1]) >= layers}

    def wanted(name: str) -> bool:
        layer = _LAYER.fullmatch(name)
        return not (layer and layer[1] in further)

    return {name: source for name, source in sources.items() if wanted(name)}
