"""The vectors of an image by llama.cpp's mtmd, in a child process.

    python -m tests.convert.images MODEL.gguf MMPROJ.gguf IMAGE.npy OUT.npy

The image is uint8 [height, width, 3], the vectors are float32 [tokens, hidden].
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
import numpy as np

_IMAGE = 1  # kind of chunk


def vectors(model: Path, mmproj: Path, pixels: np.ndarray) -> np.ndarray:
    """What the half that sees gives the text half for an image."""
    with tempfile.TemporaryDirectory() as folder:
        image, out = Path(folder) / "image.npy", Path(folder) / "vectors.npy"
        np.save(image, pixels)
        command = [sys.executable, "-m", "tests.convert.images", *map(str, (model, mmproj, image, out))]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, cwd=Path(__file__).parents[2]
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return np.load(out)


def main() -> None:
    model = llama.llama_model_load_from_file(os.fsencode(sys.argv[1]), llama.llama_model_default_params())
    parameters = mtmd.mtmd_context_params_default()
    parameters.use_gpu = parameters.print_timings = parameters.warmup = False
    parameters.n_threads = 1
    parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = mtmd.mtmd_init_from_file(os.fsencode(sys.argv[2]), model, parameters)
    assert context, "cannot be loaded"
    assert mtmd.mtmd_support_vision(context)
    chunk = _chunk(context, np.ascontiguousarray(np.load(sys.argv[3])))
    assert mtmd.mtmd_encode_chunk(context, chunk) == 0
    shape = mtmd.mtmd_input_chunk_get_n_tokens(chunk), llama.llama_model_n_embd_inp(model)
    found = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), shape=shape)
    np.save(sys.argv[4], found)


def _chunk(context: mtmd.mtmd_context_p, pixels: np.ndarray) -> mtmd.mtmd_input_chunk_p:
    """The image's part of a text that is nothing but it."""
    height, width, _ = pixels.shape
    bitmap = mtmd.mtmd_bitmap_init(width, height, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    marker = mtmd.mtmd_get_marker(context)
    text = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0
    parts = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
    (image,) = [part for part in parts if mtmd.mtmd_input_chunk_get_type(part) == _IMAGE]
    return image


if __name__ == "__main__":
    main()
