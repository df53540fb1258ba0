"""Train the demo model: a Gemma 3 text model on public-domain books (CPU, about an hour).

python train.py OUT MINUTES, with the token ids of the books (uint16) in train.bin and evaluation.bin.
"""

import sys
import time

import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

BATCH, LENGTH = 24, 256
PEAK_RATE = 3e-3
BOS = 2

config = Gemma3TextConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=64,
    query_pre_attn_scalar=64,
    max_position_embeddings=2048,
    sliding_window=128,
    rms_norm_eps=1e-6,
    layer_types=["sliding_attention"] * 5 + ["full_attention"],
    bos_token_id=BOS,
    eos_token_id=1,
    pad_token_id=0,
    tie_word_embeddings=True,
    hidden_activation="gelu_pytorch_tanh",
    attn_implementation="sdpa",
)


def evaluate(model, tokens):
    """Mean loss of 128 windows in nats a token."""
    model.eval()
    total = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(16):
            x = tokens[i * LENGTH * 8 : (i + 1) * LENGTH * 8].view(8, LENGTH)
            total += model(input_ids=x, labels=x).loss.item()
    model.train()
    return total / 16


def rate(step, done):
    """Warm up for 100 steps; after a fifth of the time fall linearly to a fiftieth."""
    return PEAK_RATE * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 - max(0, done - 0.2) / 0.8))


def main(out, minutes):
    """Train for so many minutes and save the model in BF16."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = Gemma3ForCausalLM(config)
    books = np.memmap("train.bin", np.uint16, "r")
    held_out = torch.from_numpy(np.fromfile("evaluation.bin", np.uint16).astype(np.int64))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    rng = np.random.default_rng(0)
    start, step = time.time(), 0
    model.train()
    while (done := (time.time() - start) / (minutes * 60)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, done)
        starts = rng.integers(0, len(books) - LENGTH - 1, BATCH)
        x = torch.from_numpy(np.stack([books[i : i + LENGTH] for i in starts]).astype(np.int64))
        x[:, 0] = BOS
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=x, labels=x).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
            print(f"{step} loss {loss.item():.3f} held out {evaluate(model, held_out):.3f} {done:.1%}", flush=True)
    print("held out", evaluate(model, held_out))
    model.to(torch.bfloat16)
    model.save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
