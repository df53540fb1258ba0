"""Text that the model writes itself, by llama.cpp's own sampler, and the speed at which it reads and writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from quantpress.engine.messages import Timing, Tokens
from quantpress.engine.session import Session
from quantpress.errors import EngineError

__all__ = ["sample", "timing"]

_PARALLEL = 32


def sample(session: Session, tokens: int, length: int, seed: int) -> Iterator[tuple[int, Tokens]]:
    """Sample from the bare model (BOS, temperature 1) until about `tokens` tokens are written.

    Yields (index, int32 tokens without the BOS) of each sequence as it ends: at an end-of-generation token or after
    `length` tokens. Sequence i draws with seed + i, so the same arguments give the same text on the same machine.
    """
    start = _first_token(session)
    slots = min(_PARALLEL, -(-tokens // length))
    session.open(slots, length + 1)
    state = _Sampling(session, seed)
    running = {slot: state.begin(slot) for slot in range(slots)}
    next_tokens = dict.fromkeys(running, start)
    planned = slots * length
    finished = 0
    while running:
        drawn = state.step(running, next_tokens)
        for slot, token in drawn.items():
            sequence = running[slot]
            ended = bool(llama.llama_vocab_is_eog(session.vocab, token))
            if not ended:
                sequence.tokens.append(token)
                next_tokens[slot] = token
            if not ended and len(sequence.tokens) < length:
                continue
            finished += len(sequence.tokens)
            planned -= length
            yield sequence.index, np.array(sequence.tokens, dtype=np.int32)
            sequence.close()
            del running[slot], next_tokens[slot]
            if finished + planned < tokens:
                running[slot], next_tokens[slot] = state.begin(slot), start
                planned += length


class _Sequence:
    """One text in the making, with its own sampler: temperature 1, then a draw."""

    def __init__(self, index: int, seed: int) -> None:
        self.index = index
        self.tokens: list[int] = []
        self.sampler: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(self.sampler, llama.llama_sampler_init_temp(1.0))
        llama.llama_sampler_chain_add(self.sampler, llama.llama_sampler_init_dist((seed + index) & 0xFFFFFFFF))

    def close(self) -> None:
        llama.llama_sampler_free(self.sampler)


class _Sampling:
    """The running texts, each in a sequence slot of the context."""

    def __init__(self, session: Session, seed: int) -> None:
        self.session, self.seed, self.begun = session, seed, 0

    def begin(self, slot: int) -> _Sequence:
        """A new text in an emptied slot."""
        llama.llama_memory_seq_rm(llama.llama_get_memory(self.session.context), slot, -1, -1)
        self.begun += 1
        return _Sequence(self.begun - 1, self.seed)

    def step(self, running: dict[int, _Sequence], tokens: dict[int, int]) -> dict[int, int]:
        """Decode one token a slot and draw the next."""
        owners = np.array(list(running), dtype=np.int32)
        fed = np.array([tokens[slot] for slot in running], dtype=np.int32)
        positions = np.array([len(sequence.tokens) for sequence in running.values()], dtype=np.int32)
        self.session.decode(fed, positions, owners, np.ones(len(fed), dtype=np.bool_))
        return {
            slot: int(llama.llama_sampler_sample(sequence.sampler, self.session.context, i))
            for i, (slot, sequence) in enumerate(running.items())
        }


def timing(session: Session, prompt: int, generate: int, repeats: int, seed: int) -> Iterator[Timing]:
    """Time a prompt of random tokens and single-token generation, each `repeats` times after a warm-up."""
    length = max(prompt, generate + 1)
    session.open(1, length)
    draw = np.random.default_rng(seed)
    _generate(session, draw, min(generate, 2))
    _prompt(session, draw, min(prompt, 32))
    yield Timing(
        prompt,
        generate,
        tuple(_prompt(session, draw, prompt) for _ in range(repeats)),
        tuple(_generate(session, draw, generate) for _ in range(repeats)),
    )


def _prompt(session: Session, draw: np.random.Generator, length: int) -> float:
    llama.llama_memory_clear(llama.llama_get_memory(session.context), True)
    tokens = draw.integers(session.n_vocab, size=length, dtype=np.int32)
    places = np.arange(length, dtype=np.int32)
    start = time.perf_counter()
    session.decode(tokens, places, np.zeros_like(places), places == length - 1)
    llama.llama_synchronize(session.context)
    return time.perf_counter() - start


def _generate(session: Session, draw: np.random.Generator, length: int) -> float:
    llama.llama_memory_clear(llama.llama_get_memory(session.context), True)
    zero, output = np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.bool_)
    start = time.perf_counter()
    for place in range(length):
        token = draw.integers(session.n_vocab, size=1, dtype=np.int32)
        session.decode(token, np.array([place], dtype=np.int32), zero, output)
        llama.llama_synchronize(session.context)
    return time.perf_counter() - start


def _first_token(session: Session) -> int:
    for token in (llama.llama_vocab_bos(session.vocab), llama.llama_vocab_eos(session.vocab)):
        if token >= 0:
            return int(token)
    raise EngineError("the vocabulary has neither a BOS nor an EOS token to begin a text with: give --calibration FILE")
