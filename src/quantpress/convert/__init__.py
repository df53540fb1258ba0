"""A Hugging Face checkpoint becomes a GGUF file in BF16, F16 or F32: what llama.cpp's own converter would write.

Every file of the checkpoint is looked at before anything is written; then each tensor goes through by tiles of rows.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from quantpress import checkpoint as checkpoints
from quantpress.convert.architecture import Architecture
from quantpress.convert.architectures import ARCHITECTURES, recognise
from quantpress.convert.assign import assign
from quantpress.convert.general import general
from quantpress.convert.sources import Source
from quantpress.errors import CheckpointError, PlanError
from quantpress.files import make_folder
from quantpress.floats import Floats, float32_to_bf16
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import Metadata, TensorSpec, Value, Writer
from quantpress.metadata import QUANTIZATION_VERSION
from quantpress.progress import SILENT, Progress

__all__ = ["ARCHITECTURES", "Architecture", "convert"]

_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""Type of the weights → `general.file_type`."""


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    type: str = "BF16",
    split_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the GGUF file of a checkpoint and return its path.

    Args:
        checkpoint: a folder with config.json, safetensors files and the tokenizer's files.
        out: the file to write; nothing is there before it is complete.
        type: BF16, F16 or F32, for the matrices; vectors and norms are always F32.
        split_bytes: a file that would be larger becomes a folder of its name, without `.gguf`, with numbered parts; the
            path of the first is returned.
        progress: told of the weights that are done.

    Raises CheckpointError for a checkpoint that cannot be converted (unknown, malformed, NaN or Inf in a weight, or
    one that overflows `type`), PlanError for another type or too small a `split_bytes`, OutputError and DiskFullError.
    """
    if type.upper() not in _FILE_TYPES:
        raise PlanError(None, "type", expected=" or ".join(_FILE_TYPES), found=type)
    wanted = TYPES[type.upper()]
    folder = checkpoints.read(checkpoint)
    architecture, config = recognise(folder)
    sources = assign(folder.tensors, architecture, config)
    if left_out := len(folder.tensors) - len(sources):
        progress.note(f"{left_out} tensors are left out: they are of the image half, or computed anew")
    metadata = general(folder, gguf.MODEL_ARCH_NAMES[architecture.gguf], {n: s.shape for n, s in sources.items()})
    metadata |= architecture.metadata(config)
    metadata["general.file_type"] = Value.u32(_FILE_TYPES[wanted.name])
    metadata["general.quantization_version"] = Value.u32(QUANTIZATION_VERSION)
    metadata |= architecture.vocabulary(folder, config.integer("vocab_size"))
    specs = [TensorSpec(name, one.shape[::-1], _stored_type(name, one, wanted)) for name, one in sources.items()]
    return _write(_writer(Path(out), metadata, specs, split_bytes), specs, sources, progress)


def _writer(path: Path, metadata: Metadata, specs: list[TensorSpec], split_bytes: int | None) -> Writer:
    writer = Writer(path, metadata, specs, split_bytes)
    if len(writer.paths) == 1:
        return writer
    folder = path.with_suffix("")  # for the parts, as people publish them
    make_folder(folder)
    return Writer(folder / path.name, metadata, specs, split_bytes)


def _write(writer: Writer, specs: list[TensorSpec], sources: dict[str, Source], progress: Progress) -> Path:
    weights = sum(spec.weights for spec in specs)
    with writer, progress.task("convert", weights, "weights") as advance:
        for spec in specs:
            source = sources[spec.name]
            for start, tile in source.tiles():
                writer.write(spec.name, start, _encode(source, tile, spec.type))
                advance(tile.size)
    return writer.paths[0]


def _stored_type(name: str, source: Source, wanted: TensorType) -> TensorType:
    """llama.cpp keeps vectors, norms and what is no weight of a matrix in F32."""
    matrix = len(source.shape) > 1 and name.endswith(".weight") and not name.endswith("_norm.weight")
    return wanted if matrix else TYPES["F32"]


def _encode(source: Source, tile: Floats, type: TensorType) -> NDArray[np.uint8]:
    """The bytes of finite float32 rows [rows, cols] in a float type: uint8 [rows, row bytes]."""
    if type.name == "F32":
        return tile.view(np.uint8)
    if type.name == "BF16":
        bits = float32_to_bf16(tile)
        finite = (bits & 0x7F80) != 0x7F80
    else:
        with np.errstate(over="ignore"):
            halves = tile.astype(np.float16)
        bits, finite = halves.view(np.uint16), np.isfinite(halves)
    if not finite.all():
        expected, found = f"weights in the range of {type.name}", f"{tile[~finite][0]:g}"
        hint = "Choose a type of wider range: BF16 or F32" if type.name == "F16" else "Choose F32"
        raise CheckpointError(source.path, source.name, expected=expected, found=found, hint=hint)
    return bits.view(np.uint8)
