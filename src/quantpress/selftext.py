"""Text that the model writes itself, where the user has no corpus: for a fine-tune it is the text that it knows best.

Samples from the bare model: BOS, temperature 1, a fixed seed, llama.cpp's sampler. Calibration and evaluation have
seeds of their own, so no sample serves both.
"""

from __future__ import annotations

from pathlib import Path

from quantpress.engine import Engine
from quantpress.files import write_text
from quantpress.progress import SILENT, Progress

__all__ = ["PURPOSES", "write_samples"]

PURPOSES = ("calibration", "evaluation", "held-out")
_APART = 1 << 24
_LENGTH = 512


def write_samples(engine: Engine, out: Path, purpose: str, tokens: int, seed: int, progress: Progress = SILENT) -> None:
    """Write about `tokens` tokens of sampled text to `out`, a blank line between two samples.

    Raises EngineError, OutputError.
    """
    length = min(_LENGTH, engine.info.context)
    samples = {}
    with progress.task(f"{purpose} text by the model itself", tokens, "tokens") as advance:
        for index, sample in engine.sample(tokens, length=length, seed=seed + _APART * PURPOSES.index(purpose)):
            samples[index] = sample
            advance(len(sample))
    texts = [engine.detokenize(samples[index]).strip() for index in sorted(samples)]
    write_text(out, "\n\n".join(texts) + "\n")
