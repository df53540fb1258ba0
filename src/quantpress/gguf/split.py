"""A model over several files: which tensors go to which part, how the parts are named, what each says about itself.

The way of llama.cpp's `gguf-split`: tensors stay in order, the first part has all the metadata, every part has
`split.no` (u16, from 0), `split.tensors.count` (i32, of the whole) and `split.count` (u16), in this order. One thing
differs: `gguf-split` counts tensor data only, so its parts may exceed the limit by their header; ours count every byte,
because the limit is usually that of a hosting service, and a service counts files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quantpress.errors import PlanError
from quantpress.gguf.layout import (
    ALIGNMENT_KEY,
    Layout,
    TensorSpec,
    alignment_of,
    encode_info,
    encode_keys,
    layout,
    padded,
)
from quantpress.gguf.values import Metadata, Value

__all__ = ["SPLIT_KEYS", "Part", "part_paths", "split_plan"]

SPLIT_NO, SPLIT_TENSORS, SPLIT_COUNT = SPLIT_KEYS = ("split.no", "split.tensors.count", "split.count")


@dataclass(frozen=True)
class Part:
    """What one file holds."""

    metadata: Metadata
    tensors: tuple[TensorSpec, ...]

    @cached_property
    def layout(self) -> Layout:
        """Its exact size and offsets; raises GGUFError if the format cannot hold it."""
        return layout(self.metadata, self.tensors)


def part_paths(path: Path, count: int) -> tuple[Path, ...]:
    """`model.gguf` alone for one part, else `model-00001-of-0000N.gguf` and so on."""
    if count == 1:
        return (path,)
    prefix = path.name.removesuffix(".gguf")
    return tuple(path.with_name(f"{prefix}-{no:05d}-of-{count:05d}.gguf") for no in range(1, count + 1))


def split_plan(metadata: Metadata, tensors: Iterable[TensorSpec], split_bytes: int | None = None) -> list[Part]:
    """The fewest files, filled in order, of at most `split_bytes` bytes each; one, without split keys, if all fits.

    Split keys in `metadata` are replaced. Raises PlanError if a tensor (or the metadata with the first) needs more than
    `split_bytes`, GGUFError if the format cannot hold the metadata or a tensor.
    """
    tensors = tuple(tensors)
    plain = {key: value for key, value in metadata.items() if key not in SPLIT_KEYS}
    whole = Part(plain, tensors)
    if split_bytes is None or not tensors or whole.layout.file_bytes <= split_bytes:
        return [whole]
    groups = _groups(plain, tensors, split_bytes)
    return [Part(_part_metadata(plain, no, len(groups), len(tensors)), tuple(group)) for no, group in enumerate(groups)]


def _part_metadata(metadata: Metadata, no: int, count: int, tensor_count: int) -> Metadata:
    """All keys in the first part; the others repeat only the alignment, which their own offsets follow."""
    kept = metadata if no == 0 else {key: value for key, value in metadata.items() if key == ALIGNMENT_KEY}
    split = {SPLIT_NO: Value.u16(no), SPLIT_TENSORS: Value.i32(tensor_count), SPLIT_COUNT: Value.u16(count)}
    return {**kept, **split}


def _groups(metadata: Metadata, tensors: Sequence[TensorSpec], split_bytes: int) -> list[list[TensorSpec]]:
    alignment = alignment_of(None, metadata)
    empty_bytes = [len(encode_keys(_part_metadata(metadata, no, 1, 0), 0)) for no in (0, 1)]
    groups: list[list[TensorSpec]] = [[]]
    header, data = empty_bytes[0], 0
    for tensor in tensors:
        info_bytes, nbytes = len(encode_info(tensor, 0)), padded(tensor.nbytes, alignment)
        if groups[-1] and padded(header + info_bytes, alignment) + data + nbytes > split_bytes:
            groups.append([])
            header, data = empty_bytes[1], 0
        header, data = header + info_bytes, data + nbytes
        needed = padded(header, alignment) + data
        if needed > split_bytes:  # only the first of a part can get here
            hint = f"Tensor {tensor.name} is that large with its header, and a tensor cannot be split"
            raise PlanError(
                None, "split size", expected=f"{needed:,} bytes or more", found=f"{split_bytes:,}", hint=hint
            )
        groups[-1].append(tensor)
    return groups
