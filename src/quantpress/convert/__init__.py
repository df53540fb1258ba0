"""A Hugging Face checkpoint becomes a GGUF file in BF16, F16 or F32: what llama.cpp's own converter would write.

Every file of the checkpoint is looked at before anything is written; then each tensor goes through by tiles of rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import gguf

from quantpress import checkpoint as checkpoints
from quantpress.codec import encode_rows
from quantpress.convert.architecture import Architecture, Rule, Sources
from quantpress.convert.architectures import ARCHITECTURES, recognise, recognise_projector
from quantpress.convert.assign import assign, rule_of
from quantpress.convert.general import general
from quantpress.convert.sources import Bytes, Source
from quantpress.cpu import default_threads
from quantpress.errors import CheckpointError, InputError, PlanError
from quantpress.files import make_folder
from quantpress.formats import TYPES, TensorType
from quantpress.gguf import Metadata, TensorSpec, Value, Writer, folder_writer
from quantpress.gguf import outline as write_outline
from quantpress.metadata import QUANTIZATION_VERSION
from quantpress.progress import SILENT, Progress
from quantpress.tiles import in_threads

__all__ = ["ARCHITECTURES", "Architecture", "convert", "outline"]

_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""Type of the weights → `general.file_type`."""

_CARRIED_OVER = {"MXFP4": 38}
"""The same for a checkpoint with weights in such a type: they stay in it."""

_ALWAYS_F32 = re.compile(
    r"(_norm|\.ffn_gate_inp|\.ffn_gate_inp_shexp|\.ssm_conv1d|\.shortconv\.conv|^position_embd|^token_types"
    r"|^v\.position_embd|^a\.position_embd)\.weight$"
)


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    type: str = "BF16",
    split_bytes: int | None = None,
    ignore: Sequence[str] = (),
    mmproj: bool = False,
    remote: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write the GGUF file of a checkpoint and return its path.

    Args:
        checkpoint: a folder with config.json, safetensors files and the tokenizer's files.
        out: the file to write; nothing is there before it is complete.
        type: BF16, F16 or F32, for the matrices; vectors and norms are always F32.
        split_bytes: a file that would be larger becomes a folder of its name, without `.gguf`, with numbered parts; the
            path of the first is returned.
        ignore: tensors to leave out: their names in the checkpoint, with * for any text.
        mmproj: write the half that sees, which llama.cpp loads from a file of its own, named `mmproj-….gguf`; the text
            half otherwise.
        remote: `checkpoint` is a repository on the Hugging Face Hub, `org/name` or `org/name@revision`; its files come
            through the Hub's cache, the weights only when all else has been looked at (but for the shards with the
            biases of Command R7B and A, which have to be zero).
        progress: told of the weights that are done, and of what was left out.

    Raises CheckpointError for a checkpoint that cannot be converted (unknown, malformed, NaN or Inf in a weight, or
    one that overflows `type`), PlanError for another type or too small a `split_bytes`, OutputError and DiskFullError;
    HubError where the Hub cannot be reached.
    """
    if type.upper() not in _FILE_TYPES:
        raise PlanError(None, "type", expected=" or ".join(_FILE_TYPES), found=type)
    wanted = TYPES[type.upper()]
    with closing(_opened(checkpoint, remote, progress)) as folder:
        metadata, specs, sources = _prepared(folder, wanted, ignore, mmproj, progress)
        writer = folder_writer(Path(out), metadata, specs, split_bytes)
        if len(writer.paths) > 1:
            make_folder(writer.paths[0].parent)
        return _write(writer, specs, sources, progress, folder.close)


def outline(checkpoint: str | Path, out: str | Path, *, remote: bool = False) -> Path:
    """Write the header of what `convert` would write in BF16, with a hole for the weights: to plan with, and its size.

    Raises what `convert` raises before it reads any weights.
    """
    path = Path(out)
    with closing(_opened(checkpoint, remote, SILENT)) as folder:
        metadata, specs, _ = _prepared(folder, TYPES["BF16"], (), False, SILENT)
    write_outline(path, metadata, specs)
    return path


def _prepared(
    folder: checkpoints.Checkpoint, wanted: TensorType, ignore: Sequence[str], mmproj: bool, progress: Progress
) -> tuple[Metadata, list[TensorSpec], Sources]:
    """The keys of the output, its tensors, and where their rows come from: all that can be checked before writing."""
    architecture, config = recognise_projector(folder) if mmproj else recognise(folder)
    keys = architecture.metadata(config)  # before the tensors: what config.json says explains what they lack
    sources, left_out = assign(folder.tensors, architecture, config, ignore)
    if left_out:
        progress.note(f"{len(left_out)} tensors are left out: ignored, of another half of the model, or computed anew")
    shapes = {name: one.shape for name, one in sources.items()}
    metadata = general(folder, gguf.MODEL_ARCH_NAMES[architecture.gguf], shapes, mmproj=mmproj, progress=progress)
    metadata |= keys | architecture.beside(folder, config)
    metadata["general.file_type"] = Value.u32(_file_type(sources, wanted))
    metadata["general.quantization_version"] = Value.u32(QUANTIZATION_VERSION)
    if not mmproj:
        metadata |= architecture.vocabulary(folder, config.integer("vocab_size"))
    types = {name: _stored_type(name, one, wanted, rule_of(name, architecture)) for name, one in sources.items()}
    specs = [TensorSpec(name, shape[::-1], types[name]) for name, shape in shapes.items()]
    return metadata, specs, sources


def _opened(checkpoint: str | Path, remote: bool, progress: Progress) -> checkpoints.Checkpoint:
    if not remote:
        return checkpoints.read(checkpoint)
    from quantpress import hub  # half a second that a folder does not need

    return hub.read(str(checkpoint), progress)


def _write(
    writer: Writer,
    specs: list[TensorSpec],
    sources: dict[str, Source],
    progress: Progress,
    close: Callable[[], None],
) -> Path:
    weights = sum(spec.weights for spec in specs)
    jobs = (
        partial(_convert, sources[spec.name], start, stop, spec, writer)
        for spec in specs
        for start, stop in sources[spec.name].cuts()
    )
    with (
        writer,
        progress.task("convert", weights, "weights") as advance,
        closing(in_threads(jobs, default_threads(), close)) as done,
    ):
        for count in done:
            advance(count)
    return writer.paths[0]


def _convert(source: Source, start: int, stop: int, spec: TensorSpec, writer: Writer) -> int:
    """One tile from the checkpoint to its place; returns its weights."""
    writer.write(spec.name, start, _encode(source, start, source.read(start, stop), spec.type))
    return (stop - start) * source.cols


def _stored_type(name: str, source: Source, wanted: TensorType, rule: Rule | None) -> TensorType:
    """llama.cpp keeps vectors, norms, routers and the like in F32; what is quantized stays as it is."""
    if source.type.quantized:
        return source.type
    matrix = len(source.shape) > 1 and name.endswith(".weight") and not _ALWAYS_F32.search(name)
    if rule is not None and wanted.name in rule.types:
        return TYPES[rule.types[wanted.name]]
    return wanted if matrix else TYPES["F32"]


def _file_type(sources: dict[str, Source], wanted: TensorType) -> int:
    kept = [_CARRIED_OVER[one.type.name] for one in sources.values() if one.type.name in _CARRIED_OVER]
    return kept[0] if kept else _FILE_TYPES[wanted.name]


def _encode(source: Source, start: int, tile: Bytes, type: TensorType) -> Bytes:
    """Rows from `start` on, in the type of the output; raises CheckpointError for a weight that it cannot hold."""
    if source.type.quantized:  # carried over, bit for bit
        return tile
    others = [type] if type != source.type else []  # what stays as it is, is looked at for NaN all the same
    try:
        encoded = encode_rows(tile, source.type, source.cols, others, row=start).data
    except InputError as error:
        finite, hint = error.expected != "a finite weight", None
        if finite:
            hint = "Choose a type of wider range: BF16 or F32" if type.name == "F16" else "Choose F32"
        expected = f"weights in the range of {type.name}" if finite else "finite weights"
        where = f"{source.name}, {error.field}"
        raise CheckpointError(source.path, where, expected=expected, found=error.found, hint=hint) from error
    return encoded[0] if others else tile
