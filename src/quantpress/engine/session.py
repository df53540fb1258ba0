"""A model and its context inside the child, through llama-cpp-python's low-level API.

Several windows are decoded as the sequences of one batch, while their logits fit into a gigabyte. A window whose own
do not, say 8,192 tokens with a vocabulary of 262,144, is decoded in consecutive pieces on the same KV cache. Pieces are
whole micro-batches, in which llama.cpp evaluates in any case, so it computes the same as in one piece.

Logits are made from position `first` on. The imatrix uses none, and yet needs every position to be an output: llama.cpp
skips the last layer's feed-forward for the others, and their activations would be missing.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from quantpress.engine.devices import allow_layouts
from quantpress.engine.messages import ModelInfo, Settings, Tokens
from quantpress.errors import EngineError

__all__ = ["Session", "describe", "detokenize", "logits", "tokenize"]

Logits = NDArray[np.float32]

_CACHE_TYPES = {"F32": 0, "F16": 1}
_MAX_LOGIT_BYTES = 1 << 30
_MICRO_BATCH = 512
_BUFFER = re.compile(rb"(\S+) model buffer size =")


class _Log:
    """llama.cpp's log: passed on, with the names of the buffers that weights go to kept."""

    def __init__(self) -> None:
        self.buffers: set[str] = set()

    def __call__(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        os.write(2, text)
        self.buffers.update(name.decode() for name in _BUFFER.findall(text))


_log = _Log()
_log_callback = llama.llama_log_callback(_log)  # of the process: llama.cpp may call it after a session is gone


class Session:
    """The loaded model, its vocabulary and, once asked for, a context."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        _log.buffers.clear()
        llama.llama_log_set(_log_callback, ctypes.c_void_p(0))
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = settings.gpu_layers
        parameters.vocab_only = settings.vocab_only
        parameters.use_extra_bufts = bool(settings.layouts)
        if settings.layouts:
            allow_layouts(settings.layouts)
        if settings.resident:  # in memory of its own: maps of the file are read-only
            parameters.load_mode = llama.LLAMA_LOAD_MODE_NONE
            parameters.lazy_mode = llama.LLAMA_LAZY_MODE_OFF  # or embeddings of over 4 GiB are mapped in any mode
        self.model = llama.llama_model_load_from_file(os.fsencode(settings.model), parameters)
        if not self.model:
            raise EngineError("llama.cpp cannot load this model")
        self.repacked = self._repacked()
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.n_vocab = int(llama.llama_vocab_n_tokens(self.vocab))
        self.causal = _is_causal(self.model)
        self.context: Any = None
        self._opened: tuple[int, int, int, Any] | None = None
        self._callback: Any = None
        self.refusal: str | None = None  # why nothing may be computed: weights that are half changed

    def _repacked(self) -> tuple[str, ...]:
        """The layouts that weights were repacked to. llama.cpp says so in its log only."""
        if self.settings.layouts and not _log.buffers:
            raise EngineError("llama.cpp's log: expected the buffers of the model, found none. Its form has changed")
        return tuple(name for name in self.settings.layouts if name in _log.buffers)

    def open(self, sequences: int, length: int, callback: Any = None, *, batch: int | None = None) -> None:
        """An empty context of `sequences` windows of `length` tokens, decoded up to `batch` (default: all) at a time.

        `callback` is a cb_eval function or None. The context at hand serves again if it is such a one.
        Raises EngineError if llama.cpp cannot make it, or with `refusal`.
        """
        if self.refusal is not None:
            raise EngineError(self.refusal)
        wanted = (sequences, length, batch or sequences * length, callback)
        if wanted != self._opened:
            self.close()
            self.context = self._new_context(*wanted)
            self._opened = wanted
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def close(self) -> None:
        """Free the context: the next `open` makes one whose graphs see the weights as they are by then."""
        if self.context:
            llama.llama_free(self.context)
        self.context = self._opened = None

    def _new_context(self, sequences: int, length: int, batch: int, callback: Any) -> Any:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch = sequences * length, batch
        parameters.n_ubatch = min(_MICRO_BATCH, batch) if self.causal else batch
        parameters.n_seq_max = sequences
        parameters.n_outputs_max = parameters.n_outputs_max_per_seq = 0
        parameters.n_threads = parameters.n_threads_batch = self.settings.threads
        parameters.type_k = parameters.type_v = _CACHE_TYPES[self.settings.cache_type]
        if self.settings.cache_type == "F32":  # flash attention would round the cache to F16
            parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.swa_full = False
        if callback is not None:
            parameters.cb_eval = callback
        self._callback = callback  # for as long as the context may call it: ctypes does not keep it alive
        context = llama.llama_init_from_model(self.model, parameters)
        if not context:
            raise EngineError(f"llama.cpp cannot make a context of {sequences} × {length} tokens")
        return context

    def check_predicts(self) -> None:
        """Raise EngineError for a model that embeds texts: its logits are zeros, which score like any others."""
        if not self.causal:
            raise EngineError(
                "this model embeds texts and predicts no tokens: there is nothing to sample, score or time"
            )

    def batches(self, chunks: Tokens) -> Iterator[Tokens]:
        """The windows [n, length] in groups that are decoded together."""
        fit = _MAX_LOGIT_BYTES // (chunks.shape[1] * self.n_vocab * 4)
        step = max(1, min(self.settings.sequences, len(chunks), fit))
        for start in range(0, len(chunks), step):
            yield chunks[start : start + step]

    def forward(self, windows: Tokens, *, first: int = 0, callback: Any = None) -> Iterator[tuple[int, Logits]]:
        """Decode int32 windows [sequences, length], each on an empty cache, in one piece or, if one alone, in several.

        Yields (position, float32 logits [sequences, positions, vocab] from that one on) of each piece that has
        positions from `first` on: a view that the next piece overwrites.
        """
        sequences, length = windows.shape
        self.open(sequences, length, callback)
        step = self._piece(sequences, length)
        for start in range(0, length, step):
            piece = windows[:, start : start + step]
            places = np.arange(start, start + piece.shape[1], dtype=np.int32)
            owners = np.repeat(np.arange(sequences, dtype=np.int32), len(places))
            positions = np.tile(places, sequences)
            self.decode(piece.reshape(-1), positions, owners, positions >= first)
            outputs = int(np.count_nonzero(places >= first))
            if outputs:
                pointer = llama.llama_get_logits(self.context)
                logits = np.ctypeslib.as_array(pointer, shape=(sequences, outputs, self.n_vocab))
                yield max(start, first), logits

    def _piece(self, sequences: int, length: int) -> int:
        """Positions to decode at a time: all, or as many whole micro-batches as have logits that fit."""
        fit = _MAX_LOGIT_BYTES // (sequences * self.n_vocab * 4)
        return length if length <= fit or not self.causal else max(1, fit // _MICRO_BATCH) * _MICRO_BATCH

    def decode(self, tokens: Tokens, positions: Tokens, owners: Tokens, outputs: NDArray[np.bool_]) -> None:
        """One llama_decode of tokens [n], each at its position of its sequence; raises EngineError if it fails."""
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for field, values in (("token", tokens), ("pos", positions), ("logits", outputs)):
                view = np.ctypeslib.as_array(getattr(batch, field), shape=(len(tokens),))
                view[:] = values
            for i, owner in enumerate(owners.tolist()):
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = owner
            status = llama.llama_decode(self.context, batch)
        finally:
            llama.llama_batch_free(batch)
        if status != 0:
            raise EngineError(f"llama_decode failed with status {status} on {len(tokens)} tokens")


def _is_causal(model: Any) -> bool:
    """Whether a token sees those before it only; llama.cpp evaluates the others (BERT) in one micro-batch or dies."""
    architecture, causal = ctypes.create_string_buffer(64), ctypes.create_string_buffer(8)
    llama.llama_model_meta_val_str(model, b"general.architecture", architecture, len(architecture))
    llama.llama_model_meta_val_str(model, architecture.value + b".attention.causal", causal, len(causal))
    return causal.value != b"false"


def describe(session: Session) -> Iterator[ModelInfo]:
    """What the parent should know of the model."""
    description = ctypes.create_string_buffer(256)
    llama.llama_model_desc(session.model, description, len(description))
    template = llama.llama_model_chat_template(session.model, None)
    yield ModelInfo(
        description=description.value.decode(errors="replace"),
        vocab=session.n_vocab,
        parameters=int(llama.llama_model_n_params(session.model)),
        context=int(llama.llama_model_n_ctx_train(session.model)),
        bos=int(llama.llama_vocab_bos(session.vocab)),
        eos=int(llama.llama_vocab_eos(session.vocab)),
        add_bos=bool(llama.llama_vocab_get_add_bos(session.vocab)),
        chat_template=template.decode(errors="replace") if template else None,
        repacked=session.repacked,
    )


def tokenize(session: Session, text: str, add_special: bool, parse_special: bool) -> Iterator[Tokens]:
    """The token ids, int32 [n]."""
    data = text.encode()
    room = len(data) + 16
    while True:
        buffer = (ctypes.c_int32 * room)()
        found = llama.llama_tokenize(session.vocab, data, len(data), buffer, room, add_special, parse_special)
        if found >= 0:
            yield np.array(buffer[:found], dtype=np.int32)
            return
        if -found <= room:  # INT32_MIN: more tokens than an int32 counts
            raise EngineError(f"llama.cpp cannot tokenize a text of {len(data):,} bytes in one piece")
        room = -found


def detokenize(session: Session, tokens: Tokens) -> Iterator[str]:
    """The text of int32 tokens [n], special tokens left out."""
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    room = 16 + 8 * len(ids)
    while True:
        buffer = ctypes.create_string_buffer(room)
        found = llama.llama_detokenize(session.vocab, pointer, len(ids), buffer, room, True, False)
        if found >= 0:
            yield buffer.raw[:found].decode(errors="replace")
            return
        room = -found


def logits(session: Session, chunks: Tokens) -> Iterator[Logits]:
    """float32 [length, vocab] of each window of int32 chunks [n, length]."""
    session.check_predicts()
    for windows in session.batches(chunks):
        found = np.empty((*windows.shape, session.n_vocab), dtype=np.float32)
        for start, piece in session.forward(windows):
            found[:, start : start + piece.shape[1]] = piece
        yield from found
