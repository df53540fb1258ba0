"""What the converter knows of a family of models, as a value.

The checkpoint's tensors go through the family's steps, which join, cut and rename them. Each then finds its GGUF name
through the `gguf` package's table, the name finds its `Rule`, and the rule says which shape it must have and how it is
made. A family is a value in a module of `families`, which `architectures.py` lists; no code asks which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.sources import Source
from quantpress.gguf import Metadata

__all__ = ["Architecture", "Keys", "Rule", "Sizes", "Sources", "Step", "Transform", "When"]

Sizes = Mapping[str, int]
"""The dimensions that shapes are written in, by name."""

Sources = dict[str, Source]
"""Tensors by name, in the order in which they are written."""

Transform = Callable[[Source, Sizes], Source]
Step = Callable[[Sources, Section], Sources]
Keys = Callable[[Section], Metadata]
When = Callable[[Section, int], bool]


def always(config: Section, layer: int) -> bool:
    """In every layer."""
    del config, layer
    return True


def never(config: Section, layer: int) -> bool:
    """In no layer."""
    del config, layer
    return False


@dataclass(frozen=True)
class Rule:
    """A tensor of the output.

    Attributes:
        shape: after the transforms, outermost first, as names of sizes.
        transforms: how it is made of what the checkpoint has.
        required: whether a checkpoint without it is incomplete.
        when: the layers that have it; the layer is 0 outside of them.
        optional: the layers among them that may do without it.
        reshapes: whether the transforms take another number of dimensions than `shape` has.
        types: asked type → the type that it has instead, where llama.cpp wants another.
    """

    shape: tuple[str, ...]
    transforms: tuple[Transform, ...] = ()
    required: bool = True
    when: When = always
    optional: When = never
    reshapes: bool = False
    types: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    Attributes:
        classes: the names in config.json's `architectures` that it goes by.
        gguf: its number in the `gguf` package, which knows its name and its tensors' names.
        layers: the field of config.json with the number of layers.
        sizes: config and layer (None outside of the layers) to the sizes that the rules name.
        rules: template of a GGUF name (`blk.{bid}.…` in the layers) to its rule.
        metadata: the keys of the architecture; raises CheckpointError for what llama.cpp cannot run.
        vocabulary: the keys of the tokenizer, for a vocabulary of that many tokens.
        beside: the keys that come from other files beside config.json.
        defaults: what `transformers` assumes where config.json is silent.
        derived: the same where it is computed from other fields, and for null too.
        steps: what is done to the tensors, under the checkpoint's names, before they are renamed.
        computed: tensors that the checkpoint does not have, by GGUF name, float32.
        ignored: regular expression of the names of tensors that are left out.
    """

    classes: tuple[str, ...]
    gguf: Any
    layers: str
    sizes: Callable[[Section, int | None], Sizes]
    rules: Mapping[str, Rule]
    metadata: Keys
    vocabulary: Callable[[Checkpoint, int], Metadata] = lambda checkpoint, size: {}
    beside: Callable[[Checkpoint, Section], Metadata] = lambda checkpoint, config: {}
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    derived: Callable[[Section], Mapping[str, Any]] = lambda config: {}
    steps: tuple[Step, ...] = ()
    computed: Callable[[Section], Mapping[str, Any]] = lambda config: {}
    ignored: str = r"(?!)"
