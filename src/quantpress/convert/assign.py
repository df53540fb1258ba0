"""Which tensor of a checkpoint becomes which of the output, checked by name and shape before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture
from quantpress.convert.sources import Source, stored
from quantpress.errors import CheckpointError
from quantpress.safetensors import StoredTensor

__all__ = ["assign"]

_SHOWN = 10
_LAYER = re.compile(r"\blayers\.(\d{1,9})\.")


def assign(tensors: Mapping[str, StoredTensor], architecture: Architecture, config: Section) -> dict[str, Source]:
    """GGUF name → transformed source, in the order of the checkpoint.

    Raises CheckpointError for a tensor that no rule claims, one that is missing, two for one place, a wrong shape.
    """
    layers = config.integer(architecture.layers)
    if layers > len(tensors):
        raise config.error(architecture.layers, f"at most {len(tensors)}, as there are so many tensors", layers)
    names = gguf.get_tensor_name_map(architecture.gguf, layers)
    sources: dict[str, Source] = {}
    unclaimed = []
    for tensor in tensors.values():
        if re.match(architecture.ignored, tensor.name):
            continue
        # a model with an image half keeps its text half under this name
        name = names.get_name(tensor.name.replace("language_model.", ""), try_suffixes=(".weight", ".bias"))
        if name is None or _template(name) not in architecture.rules:
            unclaimed.append(tensor.name)
        elif name in sources:
            raise CheckpointError(tensor.path, tensor.name, expected=f"one tensor for {name}", found=sources[name].name)
        else:
            sources[name] = _transformed(name, tensor, architecture, config)
    _check_complete(architecture, config, unclaimed, sources)
    return sources


def _check_complete(
    architecture: Architecture, config: Section, unclaimed: list[str], sources: Mapping[str, Source]
) -> None:
    """Raise CheckpointError for tensors that are too many or too few."""
    folder, layers = config.path.parent, config.integer(architecture.layers)
    doubt = f"{architecture.layers} = {layers} in {config.path.name} is wrong"
    if unclaimed:
        numbers = [int(found[1]) for name in unclaimed if (found := _LAYER.search(name))]
        hint = f"Perhaps {doubt}" if max(numbers, default=0) >= layers else None
        expected, what = "none but those of the architecture", f"{len(unclaimed)} more: {_some(unclaimed)}"
        raise CheckpointError(folder, "tensors", expected=expected, found=what, hint=hint)
    required = _required(architecture, layers)
    if missing := [name for name in required if name not in sources]:
        expected, what = f"the {len(required)} of the architecture", f"none for {len(missing)}: {_some(missing)}"
        hint = f"Either the checkpoint is incomplete or {doubt}"
        raise CheckpointError(folder, "tensors", expected=expected, found=what, hint=hint)


def _template(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "blk.{bid}.", name)


def _required(architecture: Architecture, layers: int) -> list[str]:
    """GGUF names, layer by layer."""
    templates = [template for template, rule in architecture.rules.items() if rule.required]
    names = (template.format(bid=bid) for bid in range(layers) for template in templates)
    return list(dict.fromkeys(names))


def _transformed(name: str, tensor: StoredTensor, architecture: Architecture, config: Section) -> Source:
    found = re.match(r"blk\.(\d+)\.", name)
    sizes = architecture.sizes(config, int(found[1]) if found else None)
    rule = architecture.rules[_template(name)]
    expected = tuple(sizes[size] for size in rule.shape)
    source = stored(tensor)
    if len(source.shape) == len(expected):
        for transform in rule.transforms:
            source = transform(source, sizes)
    if source.shape != expected:
        raise CheckpointError(tensor.path, f"{tensor.name}: shape", expected=list(expected), found=list(tensor.shape))
    return source


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
