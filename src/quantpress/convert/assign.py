"""Which tensor of a checkpoint becomes which of the output, checked by name and shape before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import gguf

from quantpress.checkpoint import Section
from quantpress.convert.architecture import Architecture, Rule, Sources
from quantpress.convert.fp8 import dequantized
from quantpress.convert.sources import Source, computed
from quantpress.convert.steps import rekeyed, without_copy
from quantpress.errors import CheckpointError, PlanError
from quantpress.safetensors import StoredTensor

__all__ = ["assign", "rule_of"]

_SHOWN = 10
_SUFFIXES = (".weight", ".bias", ".input_min", ".input_max", ".output_min", ".output_max")
_LAYER = re.compile(r"\blayers\.(\d{1,9})\.")
_NEVER = r".*\.(rotary_emb\.inv_freq|attention\.masked_bias|attention\.bias)"  # computed anew


def assign(
    tensors: Mapping[str, StoredTensor], architecture: Architecture, config: Section, ignore: Sequence[str] = ()
) -> tuple[Sources, list[str]]:
    """GGUF name → transformed source, in the order of the checkpoint; and the names of what is left out.

    `ignore`: patterns, with * for any text, of tensors to leave out. Raises CheckpointError for a tensor that no rule
    claims, one that is missing, two for one place, a wrong shape; PlanError for a pattern that no tensor has.
    """
    layers = config.integer(architecture.layers)
    left_out = _left_out(tensors, architecture, ignore)
    # a model with an image half keeps its text half under this name
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    made = dequantized(rekeyed(kept, lambda name: name.replace("language_model.", "")), config)
    for step in (without_copy, *architecture.steps):
        made = step(made, config)
    named, unclaimed = _named(made, architecture, layers)
    found = {name: _transformed(name, source, architecture, config) for name, source in named.items()}
    _check_complete(architecture, config, unclaimed, found)
    for name, values in architecture.computed(config).items():
        found[name] = computed(next(iter(found.values())), name, values)
    return found, left_out


def _left_out(tensors: Mapping[str, StoredTensor], architecture: Architecture, ignore: Sequence[str]) -> list[str]:
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise PlanError(None, f"--ignore {pattern}", expected="a pattern that some tensor has", found="none")
    never = re.compile(f"{architecture.ignored}|{_NEVER}")
    return [name for name in tensors if never.match(name) or any(fnmatchcase(name, pattern) for pattern in ignore)]


def _named(sources: Sources, architecture: Architecture, layers: int) -> tuple[Sources, list[str]]:
    """The sources by GGUF name, and the names of those that have no rule."""
    names = gguf.get_tensor_name_map(architecture.gguf, layers)
    found: Sources = {}
    unclaimed = []
    for key, source in sources.items():
        name = key if _template(key) in architecture.rules else names.get_name(key, try_suffixes=_SUFFIXES)
        if name is None or _template(name) not in architecture.rules:
            unclaimed.append(source.name)
        elif name in found:
            raise CheckpointError(source.path, source.name, expected=f"one tensor for {name}", found=found[name].name)
        else:
            found[name] = source
    return found, unclaimed


def _check_complete(architecture: Architecture, config: Section, unclaimed: list[str], sources: Sources) -> None:
    """Raise CheckpointError for tensors that are too many or too few."""
    folder, layers = config.path.parent, config.integer(architecture.layers)
    doubt = f"{architecture.layers} = {layers} in {config.path.name} is wrong"
    if unclaimed:
        numbers = [int(found[1]) for name in unclaimed if (found := _LAYER.search(name))]
        wrong = max(numbers, default=0) >= layers
        hint = f"Perhaps {doubt}" if wrong else "To go on without them: --ignore PATTERN for each"
        expected, what = "none but those of the architecture", f"{len(unclaimed)} more: {_some(unclaimed)}"
        raise CheckpointError(folder, "tensors", expected=expected, found=what, hint=hint)
    required = _required(architecture, config, layers)
    if missing := [name for name in required if name not in sources]:
        expected, what = f"the {len(required)} of the architecture", f"none for {len(missing)}: {_some(missing)}"
        untied = "tie_word_embeddings must be true where the output is the embedding"
        hint = f"Either the checkpoint is incomplete or {untied if missing == ['output.weight'] else doubt}"
        raise CheckpointError(folder, "tensors", expected=expected, found=what, hint=hint)


def rule_of(name: str, architecture: Architecture) -> Rule | None:
    """The rule of a tensor of the output, None for one that is computed."""
    return architecture.rules.get(_template(name))


def _template(name: str) -> str:
    return re.sub(r"\.blk\.\d+\.", ".blk.{bid}.", f".{name}")[1:]


def _layer(name: str) -> int | None:
    found = re.search(r"\bblk\.(\d+)\.", name)
    return int(found[1]) if found else None


def _required(architecture: Architecture, config: Section, layers: int) -> list[str]:
    """GGUF names, layer by layer."""
    names = (
        template.replace("{bid}", str(layer))
        for layer in range(layers)
        for template, rule in architecture.rules.items()
        if rule.required and rule.when(config, layer) and not rule.optional(config, layer)
    )
    return list(dict.fromkeys(names))


def _transformed(name: str, source: Source, architecture: Architecture, config: Section) -> Source:
    layer = _layer(name)
    sizes, rule = architecture.sizes(config, layer), architecture.rules[_template(name)]
    if not rule.when(config, layer or 0):
        raise CheckpointError(source.path, source.name, expected=f"none in layer {layer}", found="one")
    expected = tuple(sizes[size] for size in rule.shape)
    made = source
    if len(source.shape) == len(expected) or rule.reshapes:
        for transform in rule.transforms:
            made = transform(made, sizes)
    if made.shape != expected:
        raise CheckpointError(source.path, f"{source.name}: shape", expected=list(expected), found=list(source.shape))
    if made.type.kind == "integer":
        raise CheckpointError(source.path, f"{source.name}: dtype", expected="a float", found=made.type.name)
    return made


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
