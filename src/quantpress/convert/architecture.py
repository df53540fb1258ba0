"""What the converter knows of a family of models, as a value.

A tensor finds its GGUF name through the `gguf` package's table, the name finds its `Rule`, and the rule says which
shape it must have and how it is made. A new family is a new value in `architectures.py`; no code asks which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantpress.checkpoint import Checkpoint, Section
from quantpress.convert.sources import Source
from quantpress.gguf import Metadata

__all__ = ["Architecture", "Rule", "Sizes", "Transform"]

Sizes = Mapping[str, int]
"""The dimensions that shapes are written in, by name."""

Transform = Callable[[Source, Sizes], Source]


@dataclass(frozen=True)
class Rule:
    """A tensor of the output: its shape after the transforms, outermost first, as names of sizes."""

    shape: tuple[str, ...]
    transforms: tuple[Transform, ...] = ()
    required: bool = True


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    Attributes:
        classes: the names in config.json's `architectures` that it goes by.
        gguf: its number in the `gguf` package, which knows its name and its tensors' names.
        defaults: what `transformers` assumes where config.json is silent.
        layers: the field of config.json with the number of layers.
        sizes: config and layer (None outside of the layers) to the sizes that the rules name.
        rules: template of a GGUF name (`blk.{bid}.…` in the layers) to its rule.
        metadata: the keys of the architecture; raises CheckpointError for what llama.cpp cannot run.
        vocabulary: the keys of the tokenizer, for a vocabulary of that many tokens.
        ignored: regular expression of the names of tensors that are left out.
    """

    classes: tuple[str, ...]
    gguf: Any
    defaults: Mapping[str, Any]
    layers: str
    sizes: Callable[[Section, int | None], Sizes]
    rules: Mapping[str, Rule]
    metadata: Callable[[Section], Metadata]
    vocabulary: Callable[[Checkpoint, int], Metadata]
    ignored: str
