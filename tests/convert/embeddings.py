"""Embeddings by llama.cpp, in a child process: the product has no use for them, the tests of BERT have.

    python -m tests.convert.embeddings MODEL.gguf < tokens > vectors

Both are JSON: a list of texts, each a list of token ids; for each the vectors of its tokens and the pooled one.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as llama
import numpy as np

_NONE, _UNSPECIFIED = 0, -1  # kinds of pooling: none at all, and the file's


class Embedding(NamedTuple):
    """float32 vectors [tokens, hidden], and the pooled one [hidden], None where the file has no pooling."""

    tokens: np.ndarray
    pooled: np.ndarray | None


def embeddings(model: Path, texts: Sequence[Sequence[int]]) -> list[Embedding]:
    """Of texts of token ids, not normalized."""
    command = [sys.executable, "-m", "tests.convert.embeddings", str(model)]
    ids = json.dumps([[int(token) for token in text] for text in texts])
    done = subprocess.run(
        command, input=ids, capture_output=True, text=True, errors="replace", check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        Embedding(np.array(tokens, np.float32), None if pooled is None else np.array(pooled, np.float32))
        for tokens, pooled in json.loads(done.stdout)
    ]


def _context(model: llama.llama_model_p, length: int, pooling: int) -> llama.llama_context_p:
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = length
    parameters.embeddings, parameters.pooling_type = True, pooling
    parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it would round keys and values to F16
    parameters.n_threads = parameters.n_threads_batch = 1
    context = llama.llama_init_from_model(model, parameters)
    assert context
    return context


def _encode(context: llama.llama_context_p, tokens: list[int]) -> None:
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
        batch.seq_id[i][0] = 0
    assert llama.llama_encode(context, batch) == 0
    llama.llama_batch_free(batch)


def _embed(model: llama.llama_model_p, tokens: list[int]) -> list[object]:
    size = llama.llama_model_n_embd(model)
    plain = _context(model, len(tokens), _NONE)
    _encode(plain, tokens)
    vectors = [llama.llama_get_embeddings_ith(plain, i)[:size] for i in range(len(tokens))]
    llama.llama_free(plain)
    pooling = _context(model, len(tokens), _UNSPECIFIED)
    _encode(pooling, tokens)
    has_one = llama.llama_pooling_type(pooling) != _NONE
    pooled = llama.llama_get_embeddings_seq(pooling, 0)[:size] if has_one else None
    llama.llama_free(pooling)
    return [vectors, pooled]


def main() -> None:
    parameters = llama.llama_model_default_params()
    parameters.use_extra_bufts = False  # as in the engine
    log = llama.llama_log_callback(lambda level, text, _: os.write(2, text) and None)
    llama.llama_log_set(log, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(os.fsencode(sys.argv[1]), parameters)
    assert model, "cannot be loaded"
    print(json.dumps([_embed(model, tokens) for tokens in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
