"""The metadata of a quantized file: the source's, and what quantization adds.

`llama-quantize` writes the same keys and types, the ones it sets after those it carries over; `general.quantized_by`
and what a release knows besides (licence, base models) are ours to add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantpress.gguf import Metadata, Value

if TYPE_CHECKING:
    from quantpress.gguf import GGUF

__all__ = ["QUANTIZATION_VERSION", "ImatrixInfo", "quantized_metadata"]

QUANTIZATION_VERSION = 2
DROPPED = ("split.", "quantize.imatrix.", "quantize.compensated.", "quantize.repaired.")


@dataclass(frozen=True)
class ImatrixInfo:
    """What a quantized file says about the importance matrix it was made with."""

    file: str
    dataset: str | None
    entries: int  # tensors covered
    chunks: int  # 0 where the file does not say


def quantized_metadata(
    source: GGUF,
    file_type: int,
    imatrix: ImatrixInfo | None = None,
    extra: Mapping[str, Value] | Iterable[tuple[str, Value]] = (),
    *,
    quantized_by: str | None = "quantpress",
    repo_url: str | None = None,
) -> Metadata:
    """The keys of a quantized file in order: carried over, set by quantization, then `extra`, which overrides all.

    `file_type` is llama.cpp's number. Keys of split files and of an earlier importance matrix are dropped.
    """
    added = {
        "general.quantization_version": Value.u32(QUANTIZATION_VERSION),
        "general.file_type": Value.u32(file_type),
        **_imatrix_keys(imatrix),
    }
    if quantized_by is not None:
        added["general.quantized_by"] = Value.string(quantized_by)
    if repo_url is not None:
        added["general.repo_url"] = Value.string(repo_url)
    added.update(extra)
    kept = {key: value for key, value in source.metadata.items() if key not in added and not key.startswith(DROPPED)}
    return {**kept, **added}


def _imatrix_keys(imatrix: ImatrixInfo | None) -> Metadata:
    if imatrix is None:
        return {}
    keys = {"quantize.imatrix.file": Value.string(imatrix.file)}
    if imatrix.dataset:
        keys["quantize.imatrix.dataset"] = Value.string(imatrix.dataset)
    keys["quantize.imatrix.entries_count"] = Value.u32(imatrix.entries)
    if imatrix.chunks > 0:
        keys["quantize.imatrix.chunks_count"] = Value.u32(imatrix.chunks)
    return keys
