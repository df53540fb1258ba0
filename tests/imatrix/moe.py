"""A tiny mixture of experts with random weights: two layers, eight experts, two of them used, an output of its own.

The vocabulary is the bytes. Attention and feed-forward add little to the embedding, so that the choice of experts
depends on the token far more than on rounding, and is the same on every machine.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

LAYERS, HIDDEN, FFN, HEADS, EXPERTS, USED = 2, 64, 32, 2, 8, 2
CONTEXT = 512


def write_moe(path: Path, seed: int = 0) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny-moe")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    _add_vocabulary(writer)
    for name, values in _weights(seed).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * 259)
    writer.add_token_types([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def _weights(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (draw.standard_normal(shape) * scale / np.sqrt(shape[-1])).astype(np.float32)

    head = HIDDEN // HEADS
    found = {"token_embd.weight": normal(259, HIDDEN, scale=8), "output_norm.weight": np.ones(HIDDEN, np.float32)}
    found["output.weight"] = normal(259, HIDDEN)
    for layer in range(LAYERS):
        blk = f"blk.{layer}"
        norms = {"attn_norm": draw.uniform(0.5, 2, HIDDEN), "ffn_norm": draw.uniform(0.5, 2, HIDDEN)}
        found |= {f"{blk}.{name}.weight": values.astype(np.float32) for name, values in norms.items()}
        found |= {
            f"{blk}.attn_q.weight": normal(HIDDEN, HIDDEN),
            f"{blk}.attn_k.weight": normal(head, HIDDEN),
            f"{blk}.attn_v.weight": normal(head, HIDDEN),
            f"{blk}.attn_output.weight": normal(HIDDEN, HIDDEN, scale=0.02),
            f"{blk}.ffn_gate_inp.weight": normal(EXPERTS, HIDDEN, scale=2),
            f"{blk}.ffn_gate_exps.weight": normal(EXPERTS, FFN, HIDDEN),
            f"{blk}.ffn_up_exps.weight": normal(EXPERTS, FFN, HIDDEN),
            f"{blk}.ffn_down_exps.weight": normal(EXPERTS, HIDDEN, FFN, scale=0.05),
        }
    return found
