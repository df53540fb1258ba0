"""Text that the model writes itself, by llama.cpp's own sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from quantpress.engine.messages import Tokens
from quantpress.engine.session import Session
from quantpress.errors import EngineError

__all__ = ["sample"]

_PARALLEL = 32
_CACHE_BYTES = 1 << 30


def sample(session: Session, tokens: int, length: int, seed: int) -> Iterator[tuple[int, Tokens]]:
    """Sample from the bare model (BOS, temperature 1) until about `tokens` tokens are written.

    Yields (index, int32 tokens without the BOS) of each sequence as it ends: at an end-of-generation token or after
    `length` tokens. Sequence i draws with a seed made of `seed` and i, whichever the slot it is written in: the same
    arguments give the same text on the same machine. Raises EngineError if the texts end at once.
    """
    session.check_predicts()
    texts = _Texts(session, tokens, length, seed)
    while texts.running:
        for slot in texts.step():
            text = texts.end(slot)
            yield text.index, np.array(text.tokens, dtype=np.int32)
            if texts.more_wanted():
                texts.begin(slot)


def _slots(session: Session, tokens: int, length: int) -> int:
    """How many texts to write side by side: no more than are wanted, and than the cache has room for."""
    heads = llama.llama_model_n_layer(session.model) * llama.llama_model_n_head_kv(session.model)
    head_size = llama.llama_model_n_embd(session.model) // max(1, llama.llama_model_n_head(session.model))
    token_bytes = max(1, heads * head_size * 4)  # keys and values in F16
    return max(1, min(_PARALLEL, -(-tokens // length), int(_CACHE_BYTES // (token_bytes * length))))


def _draw_seed(seed: int, index: int) -> int:
    """A hash of both, so that neighbouring seeds share no text; never 0xFFFFFFFF: to llama.cpp that is any seed."""
    state = np.random.SeedSequence(seed % (1 << 64), spawn_key=(index,)).generate_state(1)
    return int(state[0]) % 0xFFFFFFFF


class _Text:
    """One text in the making, with its own sampler: temperature 1, then a draw."""

    def __init__(self, index: int, seed: int, first: int) -> None:
        self.index, self.last = index, first
        self.tokens: list[int] = []
        self.sampler: Any = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(self.sampler, llama.llama_sampler_init_temp(1.0))
        llama.llama_sampler_chain_add(self.sampler, llama.llama_sampler_init_dist(_draw_seed(seed, index)))


class _Texts:
    """The texts under way, each in a sequence slot of the context."""

    def __init__(self, session: Session, tokens: int, length: int, seed: int) -> None:
        self.session, self.wanted, self.length, self.seed = session, tokens, length, seed
        self.first = _first_token(session)
        self.begun = self.written = 0
        self.running: dict[int, _Text] = {}
        slots = _slots(session, tokens, length)
        session.open(slots, length, batch=slots)  # the BOS, and all tokens but the last
        for slot in range(slots):
            self.begin(slot)

    def begin(self, slot: int) -> None:
        """A new text in an empty slot."""
        self.running[slot] = _Text(self.begun, self.seed, self.first)
        self.begun += 1

    def step(self) -> list[int]:
        """Decode a token of every text and draw its next; returns the slots whose texts are complete."""
        owners = np.array(list(self.running), dtype=np.int32)
        fed = np.array([text.last for text in self.running.values()], dtype=np.int32)
        positions = np.array([len(text.tokens) for text in self.running.values()], dtype=np.int32)
        self.session.decode(fed, positions, owners, np.ones(len(fed), dtype=np.bool_))
        complete = []
        for i, (slot, text) in enumerate(self.running.items()):
            text.last = int(llama.llama_sampler_sample(text.sampler, self.session.context, i))
            ended = bool(llama.llama_vocab_is_eog(self.session.vocab, text.last))
            if not ended:
                text.tokens.append(text.last)
            if ended or len(text.tokens) == self.length:
                complete.append(slot)
        return complete

    def end(self, slot: int) -> _Text:
        """Take a text from its slot and empty that."""
        text = self.running.pop(slot)
        llama.llama_sampler_free(text.sampler)
        llama.llama_memory_seq_rm(llama.llama_get_memory(self.session.context), slot, -1, -1)
        self.written += len(text.tokens)
        return text

    def more_wanted(self) -> bool:
        """Whether what is written and under way will not do; raises EngineError if the model writes next to nothing."""
        more = self.written + len(self.running) * self.length < self.wanted
        if more and self.begun > _PARALLEL and self.written < self.begun:
            raise EngineError(f"the model ends its texts at once: {self.written} tokens in {self.begun} texts")
        return more


def _first_token(session: Session) -> int:
    for token in (llama.llama_vocab_bos(session.vocab), llama.llama_vocab_eos(session.vocab)):
        if token >= 0:
            return int(token)
    raise EngineError("the vocabulary has neither a BOS nor an EOS token to begin a text with: give --calibration FILE")
