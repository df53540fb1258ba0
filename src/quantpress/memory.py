"""How much memory a model takes in llama.cpp, and how large a file fits into the memory that there is.

What counts is what llama.cpp allocates: the weights, the cache of keys and values (or the states) of the context, the
buffers in which it computes and the one that logits are handed out in. The numbers are llama.cpp's (`engine.buffers`),
asked with a file of which only the header is there: the planned types, and a hole in place of the data. So neither the
weights nor the planned file have to exist.

The rest of the process is not among them: the vocabulary and the descriptions of the tensors, about as large as the
header, some 50 bytes a token of the context, and the threads' scratch space. The setting is one conversation on one
device, a sliding window's cache no longer than the window, as in llama.cpp's programs. A matrix that is embedding and
output at once is kept twice where the layers are shared out between devices, or where llama.cpp repacks it for the CPU.

Cache and compute buffers hold activations, whose types do not depend on the weights'. That makes the largest file a
subtraction (`weight_budget`), and a test compares them between mixes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantpress import gguf
from quantpress.engine.buffers import Buffers, simulate
from quantpress.errors import PlanError
from quantpress.formats import TYPES, TensorType, tensor_type
from quantpress.gguf import GGUF, Metadata, TensorSpec
from quantpress.gguf.layout import encode_header

__all__ = ["CACHE_TYPES", "Footprint", "buffers", "footprint", "weight_budget"]

CACHE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1")
"""What llama.cpp's `--cache-type-k` and `-v` take; a quantized cache turns flash attention on."""

_MOST_TOKENS = 1 << 24  # llama.cpp keeps some 50 bytes a token of its own, even where it simulates


@dataclass(frozen=True)
class Footprint:
    """Bytes that llama.cpp allocates; `weights` exactly, the others rounded up by at most 0.01 MiB a buffer."""

    weights: int
    cache: int
    compute: int
    output: int
    context: int
    cache_type: str

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.cache + self.compute + self.output


def footprint(
    model: str | Path | GGUF,
    types: Mapping[str, str] | None = None,
    *,
    context: int,
    cache_type: str = "F16",
    outputs: int = 0,
) -> Footprint:
    """What a model takes as it is, or with the planned types.

    Args:
        model: a GGUF file; nothing but its header is looked at.
        types: tensor to name of a type, as in `Plan.tensors`; tensors without one keep theirs.
        context: tokens that the context holds; more than the model was trained on is allowed, as it is in llama.cpp.
        cache_type: one of CACHE_TYPES, in any case.
        outputs: positions of a batch that have logits. 0, the library's default, is all of them, the most that any
            program takes; llama-server and llama-cli take 1, which saves up to 511 × vocabulary floats.

    Raises PlanError for a type, a cache type or a context that is not possible, EngineError for a model that llama.cpp
    does not know.
    """
    if not isinstance(model, GGUF):
        with gguf.read(model) as source:
            return footprint(source, types, context=context, cache_type=cache_type, outputs=outputs)
    specs = _specs(model, types or {})
    found = _simulated(model, specs, context, cache_type, outputs)
    layout = gguf.layout(model.metadata, specs)
    weights = layout.file_bytes - layout.header_bytes - found.unused
    return Footprint(weights, found.cache, found.compute, found.output, context, cache_type.upper())


def buffers(
    model: GGUF, types: Mapping[str, str] | None = None, *, context: int, cache_type: str = "F16", outputs: int = 0
) -> Buffers:
    """What it takes beside the weights, the cache by layers too; arguments and errors are those of `footprint`."""
    return _simulated(model, _specs(model, types or {}), context, cache_type, outputs)


def weight_budget(
    model: str | Path | GGUF,
    memory: int,
    *,
    context: int,
    cache_type: str = "F16",
    outputs: int = 0,
    metadata: Metadata | None = None,
) -> int:
    """Bytes of the largest GGUF file of this model whose footprint is at most `memory` bytes.

    The tensors' data, each padded to the alignment, may take `memory` less cache, compute and output buffers; the file
    is that and its header, which is everything before the data. The header is the one with the planned file's
    `metadata` (default: the model's). Tensors that llama.cpp does not load count here as if it did.

    Arguments and errors are those of `footprint`; PlanError too where nothing is left for the weights.
    """
    if not isinstance(model, GGUF):
        with gguf.read(model) as source:
            return weight_budget(
                source, memory, context=context, cache_type=cache_type, outputs=outputs, metadata=metadata
            )
    found = footprint(model, context=context, cache_type=cache_type, outputs=outputs)
    rest = found.total - found.weights
    if memory <= rest:
        parts = f"cache {found.cache:,}, compute buffers {found.compute:,}, output {found.output:,}"
        expected = f"more than {rest:,} bytes, which a context of {context:,} tokens takes ({parts})"
        hint = "Take a shorter context, or a smaller type for the cache, such as q8_0"
        raise PlanError(model.path, "memory", expected=expected, found=f"{memory:,}", hint=hint)
    header = encode_header(model.metadata if metadata is None else metadata, tuple(model.tensors.values()))
    return len(header) + memory - rest


def _cache_type(name: str) -> TensorType:
    if name.upper() not in CACHE_TYPES:
        expected = f"one of {', '.join(CACHE_TYPES).lower()}"
        raise PlanError(None, "type of the KV cache", expected=expected, found=name)
    return TYPES[name.upper()]


def _specs(model: GGUF, types: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    """The tensors with their planned types; PlanError for a tensor or a type that is not possible."""
    if not model.tensors:
        raise PlanError(model.path, "tensors", expected="a model with weights", found="none")
    for name in types.keys() - model.tensors:
        raise PlanError(model.path, f"tensor {name}", expected="the tensors of the model", found="no such tensor")
    specs = []
    for name, tensor in model.tensors.items():
        type = tensor_type(types[name]) if name in types else tensor.type
        if tensor.cols % type.block:
            expected = f"a type that rows of {tensor.cols} can have"
            raise PlanError(model.path, f"tensor {name}", expected=expected, found=type.name)
        specs.append(TensorSpec(name, tensor.shape, type))
    return tuple(specs)


def _simulated(model: GGUF, specs: tuple[TensorSpec, ...], context: int, cache_type: str, outputs: int) -> Buffers:
    """llama.cpp's numbers, from a file with the header of `specs` and a hole for their data, which is never read."""
    kind = _cache_type(cache_type)
    if not 1 <= context <= _MOST_TOKENS:
        raise PlanError(None, "context", expected=f"1 to {_MOST_TOKENS:,} tokens", found=f"{context:,}")
    if outputs < 0:
        raise PlanError(None, "outputs", expected="0 for all, or more", found=outputs)
    with tempfile.TemporaryDirectory(prefix="quantpress-memory-") as folder:
        path = Path(folder) / "header.gguf"
        gguf.outline(path, model.metadata, specs)
        return simulate(path, context=context, cache_type=kind, outputs=outputs, name=model.path)
