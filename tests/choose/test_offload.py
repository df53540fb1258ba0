"""Where bytes go by the layers that are offloaded: against llama.cpp's log, and formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpress import gguf
from quantpress.choose.offload import place, weights_of
from quantpress.engine.buffers import Buffers, parse
from quantpress.formats import TYPES
from quantpress.gguf import TensorSpec, Value, Writer
from quantpress.memory import buffers

CONTEXT = 2048


@pytest.fixture(scope="module")
def demo_model(bf16_gguf: Path) -> gguf.GGUF:
    with gguf.read(bf16_gguf) as model:
        return model


def test_the_cache_of_a_layer(demo_model: gguf.GGUF) -> None:
    """Of six layers the last sees all tokens, the others a window of 128 and a batch of 512, in steps of 256."""
    found = buffers(demo_model, context=CONTEXT, outputs=1)
    token = 2 * 1 * 64 * 2  # keys and values, a head, F16
    for layer in range(6):
        expected = token * (CONTEXT if layer == 5 else 768)
        assert expected <= found.layers[layer] <= expected + 0.01 * (1 << 20)
    assert found.cache <= sum(found.layers.values()) <= found.cache + 6


# MiB of weights and of cache on a device that llama.cpp's RPC backend put beside the CPU, by the layers offloaded, of
# the BF16 file with 2,048 tokens in F16: from the log of llama.cpp at 0c1e57098.
ON_DEVICE = {
    1: (2.00, 0),
    2: (3.82, 0.5),
    3: (5.63, 0.69),
    4: (7.45, 0.88),
    5: (9.27, 1.06),
    6: (11.09, 1.25),
    7: (12.9, 1.44),
}
IN_MEMORY = {
    1: (12.9, 1.44),
    2: (11.08, 0.94),
    3: (9.27, 0.75),
    4: (7.45, 0.56),
    5: (5.63, 0.38),
    6: (3.82, 0.19),
    7: (2.0, 0),
}


def test_what_llama_cpp_put_on_a_device(demo_model: gguf.GGUF) -> None:
    weights, found = weights_of(demo_model), buffers(demo_model, context=CONTEXT, outputs=1)
    for layers, expected in ON_DEVICE.items():
        placed = place(weights, found, layers)
        sides = [placed.gpu - found.compute, placed.memory - found.compute - found.output]
        sizes = [size / (1 << 20) for size in sides]
        assert sizes == pytest.approx([sum(expected), sum(IN_MEMORY[layers])], abs=0.03)


MAKING = """\
llama_kv_cache: layer   0: filtered
llama_kv_cache: layer   1: dev = CPU
llama_kv_cache: layer   3: dev = CPU
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =    1.00 MiB (  4096 cells,   2 layers,  1/1 seqs), K (f16):    0.50 MiB, V (f16):    0.50 MiB
llama_memory_recurrent: layer   1: skipped
llama_memory_recurrent, layer   0: dev = CPU
llama_memory_recurrent, layer   2: dev = CPU
llama_memory_recurrent:        CPU RS buffer size =     0.02 MiB
llama_memory_recurrent: size =    0.02 MiB (     1 cells,   2 layers,  1 seqs  0 rs_seq), R (f32):    0.01 MiB
llama_context:        CPU  output buffer size =     0.02 MiB
sched_reserve:        CPU compute buffer size =    12.77 MiB
"""


def test_the_caches_of_layers_in_the_log() -> None:
    """Attention in two of four layers, states in the others."""
    found = parse("", MAKING, caches=True, name=Path("model.gguf")).layers
    sizes = {layer: size / (1 << 20) for layer, size in found.items()}
    assert sizes == pytest.approx({1: 0.5025, 3: 0.5025, 0: 0.0125, 2: 0.0125}, abs=1e-5)


def test_tables_and_an_output_of_its_own(tmp_path: Path) -> None:
    """Rows that are looked up stay in memory; a separate output matrix goes to the GPU first, and is kept once."""
    kind, specs = (
        TYPES["Q8_0"],
        {"token_embd": 7, "per_layer_token_embd": 5, "output": 3, "blk.0.ffn_up": 2, "blk.1.ffn_up": 1},
    )
    tensors = [TensorSpec(f"{name}.weight", (32, rows), kind) for name, rows in specs.items()]
    metadata = {"general.architecture": Value.string("llama"), "llama.block_count": Value.u32(2)}
    path = tmp_path / "untied.gguf"
    with Writer(path, metadata, tensors) as writer:
        for tensor in tensors:
            writer.write(tensor.name, 0, np.zeros((tensor.rows, tensor.row_bytes), np.uint8))
    with gguf.read(path) as model:
        weights = weights_of(model)
    padded = {name: -(-rows * 34 // 32) * 32 for name, rows in specs.items()}
    assert (weights.input, weights.output, weights.tied) == (
        padded["token_embd"] + padded["per_layer_token_embd"],
        padded["output"],
        0,
    )
    assert weights.blocks == (padded["blk.0.ffn_up"], padded["blk.1.ffn_up"])
    found = Buffers(cache=100, compute=1000, output=10, unused=0, layers={0: 60, 1: 40})
    one, all_of_it = place(weights, found, 2), place(weights, found, 3)
    assert one.gpu == padded["output"] + padded["blk.1.ffn_up"] + 40 + 1000
    assert one.memory == weights.input + padded["blk.0.ffn_up"] + 60 + 1000 + 10
    assert (all_of_it.memory, all_of_it.whole, one.whole) == (weights.input + 1000 + 10, True, False)
