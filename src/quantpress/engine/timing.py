"""How fast a model reads a prompt (pp) and writes tokens (tg), by the definition of llama-bench.

A test of n tokens has a context of n tokens, a run that is not counted (of the whole prompt, or of one token), and runs
on an empty cache. The tokens are random ones, behind a BOS if the tokenizer adds one: no sampler is timed. A prompt is
decoded 2,048 tokens at a time in micro-batches of 512, with logits of each batch's last token; generation decodes one
token, with its logits, and waits for them.

The batches are made before the clock starts: in C that takes no time, in Python it would be counted with the model.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from quantpress.engine.messages import Tokens
from quantpress.engine.session import Session
from quantpress.errors import EngineError

__all__ = ["timing"]

_BATCH = 2048


def timing(session: Session, kind: str, tokens: int, repeats: int) -> Iterator[float]:
    """Yield the seconds of each of `repeats` runs of the test `kind` (pp or tg) of `tokens` tokens.

    Raises EngineError for a model that predicts nothing, and where llama.cpp fails.
    """
    session.check_predicts()
    session.close()  # an equal context that has run before is warmer than llama-bench's
    session.open(1, tokens, batch=_BATCH)
    draw = np.random.default_rng(0)
    _run(session, kind, _tokens(session, draw, tokens if kind == "pp" else 1))
    for _ in range(repeats):
        yield _run(session, kind, _tokens(session, draw, tokens))


def _tokens(session: Session, draw: np.random.Generator, count: int) -> Tokens:
    found = draw.integers(session.n_vocab, size=count, dtype=np.int32)
    if llama.llama_vocab_get_add_bos(session.vocab):
        found[0] = llama.llama_vocab_bos(session.vocab)
    return found


def _run(session: Session, kind: str, tokens: Tokens) -> float:
    """Seconds to decode tokens [n] on an empty cache."""
    step = _BATCH if kind == "pp" else 1
    batches = [_batch(tokens[start : start + step]) for start in range(0, len(tokens), step)]
    llama.llama_memory_clear(llama.llama_get_memory(session.context), False)
    start = time.perf_counter()
    for batch in batches:
        status = llama.llama_decode(session.context, batch)
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status} on {batch.n_tokens} tokens")
        if kind == "tg":
            llama.llama_synchronize(session.context)
    llama.llama_synchronize(session.context)
    return time.perf_counter() - start


def _batch(tokens: Tokens) -> Any:
    """Tokens at the next positions, logits for the last; they must outlive the batch."""
    return llama.llama_batch_get_one(tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(tokens))
