"""Train a small Llama on a text: a second model to measure with, unlike the demo in architecture and shapes (CPU).

    pip install torch transformers sentencepiece
    python scripts/train_model.py OUT --text FILE --held-out FILE [--teacher examples/demo-gemma3] [--minutes 25]

OUT becomes a Hugging Face checkpoint (BF16) with the files of --tokenizer. Three choices need a reason:
- Windows of 512 tokens, because perplexity is measured on the second halves of windows of 512: rotary attention over
  distances that it never saw would dominate that measurement.
- A megabyte of text is little: 8 M weights learn it by heart before they learn the language. A teacher of the same
  vocabulary and width lends embedding and output to begin with, and gives each position its whole distribution (Hinton
  et al. 2015, arXiv 1503.02531). Without one, weight decay and the next choice must do.
- The weights kept are those of the least held-out loss, which is therefore a little too good as an estimate.

The seed fixes the initial weights and the order of the windows. The schedule follows the clock, or with --steps the
steps; then a run repeats on one machine with one thread.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

DEMO = Path(__file__).parents[1] / "examples" / "demo-gemma3"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SIZES = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "max_position_embeddings": 2048}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
LENGTH, BATCH = 512, 4  # tokens a window, windows a step
RATE, WARM_UP = 2e-3, 60  # the highest learning rate, steps until there
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.1, 1.0
HARD = 0.3  # share of the loss that the text's own tokens have beside a teacher's distributions
CHECKS, EVERY = 10, 3  # looks at the held-out text, each at one window of so many


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=DEMO)
    parser.add_argument("--teacher", type=Path, help="a checkpoint of the same vocabulary and width to learn from")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def llama(tokenizer: Any) -> LlamaForCausalLM:
    """The untrained model, with an output of its own."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"vocab_size": tokenizer.vocab_size, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**size, **SIZES, **HEADS, **special))


@torch.no_grad()
def begin_like(model: LlamaForCausalLM, teacher: nn.Module) -> None:
    """Copy the teacher's embedding and output, the gain of its last norm (what it makes of ones) multiplied in."""
    gain = teacher.model.norm(torch.ones(model.config.hidden_size))
    model.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight)
    model.get_output_embeddings().weight.copy_(teacher.get_output_embeddings().weight * gain)


@torch.inference_mode()
def held_out_loss(model: nn.Module, tokens: Tensor) -> float:
    """Mean loss in nats a token over windows [n, LENGTH]."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(input_ids=x, labels=x).loss.item() * len(x) for x in tokens.split(BATCH)]
    return sum(losses) / len(tokens)


def step_loss(model: nn.Module, teacher: nn.Module | None, x: Tensor) -> Tensor:
    """Cross-entropy in nats a token against the next tokens, and a share of it against the teacher's distribution."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=x).logits[:, :-1].flatten(0, 1).float()
        own = functional.cross_entropy(logits, x[:, 1:].flatten())
        if teacher is None:
            return own
        with torch.no_grad():
            soft = teacher(input_ids=x).logits[:, :-1].flatten(0, 1).float().softmax(-1)
        return HARD * own + (1 - HARD) * functional.cross_entropy(logits, soft)


def rate(step: int, done: float) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth; `done` is the share of the run that is over."""
    return RATE * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: nn.Module, teacher: nn.Module | None, text: Tensor, held_out: Tensor, args: Any) -> None:
    """Train in place and leave the weights of the least held-out loss."""
    matrices = {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
    gains = {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, gains], betas=BETAS, fused=True)
    step, done, checked, best, kept, start = 0, 0.0, 0, math.inf, None, time.monotonic()
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, done)
        x = text[torch.randint(len(text) - LENGTH + 1, (BATCH, 1)) + torch.arange(LENGTH)]
        x[:, 0] = held_out[0, 0]  # BOS
        loss = step_loss(model, teacher, x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        step += 1
        done = min(1.0, step / args.steps if args.steps else (time.monotonic() - start) / (60 * args.minutes))
        if done * CHECKS >= checked + 1:
            checked, now = int(done * CHECKS), held_out_loss(model, held_out[::EVERY])
            if now < best:
                best, kept = now, copy.deepcopy(model.state_dict())
            print(f"{done:.0%}, {step} steps: loss {loss.item():.3f}, held out {now:.4f}", flush=True)
    model.load_state_dict(kept)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    texts = [path.read_text(encoding="utf-8") for path in (args.text, args.held_out)]
    text, held_out = (torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    held_out = held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)
    held_out[:, 0] = tokenizer.bos_token_id
    model, teacher = llama(tokenizer), None
    if args.teacher:
        teacher = AutoModelForCausalLM.from_pretrained(args.teacher, dtype=torch.float32).eval()
        begin_like(model, teacher)
        print(f"the teacher's held-out loss {held_out_loss(teacher, held_out[::EVERY]):.4f}", flush=True)
    train(model, teacher, text, held_out, args)
    model.to(torch.bfloat16).save_pretrained(args.out)
    for name in TOKENIZER_FILES:
        if (args.tokenizer / name).is_file():
            shutil.copyfile(args.tokenizer / name, args.out / name)
    loss = held_out_loss(model, held_out)
    print(f"held-out loss {loss:.4f} nats a token in BF16, perplexity {math.exp(loss):.2f}")


if __name__ == "__main__":
    main()
