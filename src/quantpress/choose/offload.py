"""What llama.cpp puts on the GPU and what stays in memory, for each number of layers that are offloaded.

`-ngl N` counts from the end: 1 is the output layer, each further one the block before; blocks + 1 is all. With the
weights of a block goes its cache. The embedding, and tables that rows are only looked up in, stay in memory always. A
matrix that is embedding and output at once is kept twice where the output is on the GPU, and also where it is quantized
in memory, because llama.cpp may repack it for the CPU. Each side has compute buffers of its own, in memory those of the
inputs at least: they are taken to be as large on either as for the whole graph. The rest was compared with what
llama.cpp allocates for each number of layers, on a device that its RPC backend put beside the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from quantpress.engine.buffers import Buffers
from quantpress.formats import TensorType
from quantpress.gguf import GGUF
from quantpress.gguf.layout import padded

__all__ = ["GPU_RESERVE", "RESERVE", "Placement", "Weights", "place", "weights_of"]

RESERVE = 512 << 20  # of memory: vocabulary, threads, server, descriptions of the tensors
GPU_RESERVE = 1 << 30  # of the GPU's: its context and what else is shown there; llama.cpp's --fit leaves as much

_BLOCK = re.compile(r"(?:enc\.|dec\.)?blk\.(\d+)\.")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_LOOKED_UP = (_EMBEDDING, "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")


@dataclass(frozen=True)
class Weights:
    """Bytes of a file's tensors by where llama.cpp puts them; `tied` of the matrix that is embedding and output.

    `count` is the number of all weights, `never_offloaded` of those that are on no GPU; `bits` are bits a weight.
    """

    input: int
    blocks: tuple[int, ...]
    output: int
    tied: int
    tied_type: TensorType | None
    count: int
    never_offloaded: int
    bits: float

    @property
    def total(self) -> int:
        """Each tensor once."""
        return self.input + sum(self.blocks) + self.output


@dataclass(frozen=True)
class Placement:
    """`layers` offloaded of `blocks` + 1, and the bytes that llama.cpp then takes on either side, without reserves."""

    layers: int
    blocks: int
    memory: int
    gpu: int

    @property
    def whole(self) -> bool:
        """Whether all that can be on the GPU is there."""
        return self.layers == self.blocks + 1


def weights_of(model: GGUF) -> Weights:
    """The bytes of a model's tensors by layer, each tensor padded as in the file."""
    blocks = dict.fromkeys(range(int(model.get(f"{model.get('general.architecture')}.block_count", 0))), 0)
    looked_up = output = 0
    for name, tensor in model.tensors.items():
        size = padded(tensor.nbytes, model.alignment)
        if found := _BLOCK.match(name):
            blocks[int(found[1])] = blocks.get(int(found[1]), 0) + size
        elif name in _LOOKED_UP:
            looked_up += size
        else:
            output += size
    embedding = None if _OUTPUT in model.tensors else model.tensors.get(_EMBEDDING)
    tied = padded(embedding.nbytes, model.alignment) if embedding else 0
    tensors = model.tensors.values()
    count = sum(tensor.weights for tensor in tensors)
    return Weights(
        input=looked_up,
        blocks=tuple(blocks[i] for i in sorted(blocks)),
        output=output,
        tied=tied,
        tied_type=embedding.type if embedding else None,
        count=count,
        never_offloaded=sum(tensor.weights for tensor in tensors if tensor.name in _LOOKED_UP and tensor != embedding),
        bits=8 * sum(tensor.nbytes for tensor in tensors) / max(1, count),
    )


def place(weights: Weights, buffers: Buffers, layers: int) -> Placement:
    """Where the bytes are with `layers` offloaded."""
    blocks = len(weights.blocks)
    first = max(0, blocks + 1 - layers)  # block on the GPU
    tied = weights.tied if buffers.cache else 0  # a model that embeds texts has no output matrix
    cache = _caches(buffers, blocks)
    on_gpu = sum(weights.blocks[first:]) + sum(cache[first:])
    rest = weights.total - buffers.unused + buffers.cache + buffers.output
    if layers == 0:
        copied = tied if weights.tied_type is not None and weights.tied_type.quantized else 0
        return Placement(0, blocks, rest + copied + buffers.compute, 0)
    gpu = weights.output + tied + on_gpu + buffers.compute
    return Placement(layers, blocks, rest - weights.output - on_gpu + buffers.compute, gpu)


def _caches(buffers: Buffers, blocks: int) -> list[int]:
    """Bytes of the cache of each block; what llama.cpp assigns to no layer is spread over them."""
    known: Mapping[int, int] = buffers.layers
    loose = max(0, buffers.cache - sum(known.values())) / max(1, blocks)
    return [int(known.get(block, 0) + loose) for block in range(blocks)]
