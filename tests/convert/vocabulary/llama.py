"""llama.cpp's tokenizer of some keys, in this process."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

from quantpress.engine.messages import Settings
from quantpress.engine.session import Session
from quantpress.gguf import Metadata, TensorSpec, Value, Writer


class Vocabulary:
    """The vocabulary that llama.cpp makes of `keys`."""

    def __init__(self, folder: Path, keys: Metadata, architecture: str = "llama") -> None:
        path = folder / "vocabulary.gguf"
        with Writer(path, {"general.architecture": Value.string(architecture), **keys}, list[TensorSpec]()):
            pass
        self.session = Session(Settings(str(path), 1, 1, 0, "F16", vocab_only=True))

    def ids(self, text: str | bytes, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        buffer = (ctypes.c_int32 * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(
            self.session.vocab, data, len(data), buffer, len(buffer), add_special, parse_special
        )
        assert count >= 0
        return np.array(buffer[:count]).tolist()
