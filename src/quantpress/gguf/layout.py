"""Where every byte of a GGUF file lies: what a header may say, and what follows from it.

    magic "GGUF" | version u32 | tensors u64 | keys u64
    keys × (text key, u32 type, value)
    tensors × (text name, u32 dimensions, u64 × dimensions, u32 type, u64 offset from the start of the data)
    zeros up to the alignment
    tensors × (rows, zeros up to the alignment)

Offsets hold no information: they follow from the shapes and types, and ggml refuses any other. So the reader and the
writer share the rules below, and the reader compares what it found with what it would have written, in place of
separate checks for order, overlap and alignment.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantpress.errors import GGUFError
from quantpress.formats import TensorType
from quantpress.gguf.values import Metadata, ValueType, encode_text

__all__ = ["Layout", "TensorSpec", "layout"]

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_KEYS = 100_000
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63  # ggml keeps names in 64 bytes, with a zero at the end
MAX_TEXT_BYTES = 10_000_000
MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its data; `shape` is in ggml's order, so shape[0] is the number of columns of a row."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def cols(self) -> int:
        """Weights of a row."""
        return self.shape[0] if self.shape else 1

    @property
    def rows(self) -> int:
        """Rows of all matrices together; 1 for a vector."""
        return math.prod(self.shape[1:])

    @property
    def matrices(self) -> int:
        """Matrices stacked in the tensor (experts); 1 for a matrix or a vector."""
        return math.prod(self.shape[2:])

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row; PlanError if the type's block does not divide it."""
        return self.type.row_bytes(self.cols)

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without the padding that follows."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Layout:
    """The exact size of one file: its header with the padding, where each tensor starts, and the whole."""

    header_bytes: int
    offsets: dict[str, int]
    file_bytes: int


def layout(metadata: Metadata, tensors: Iterable[TensorSpec]) -> Layout:
    """The layout of a single file with these keys and tensors, aligned as `general.alignment` says (32 without).

    Raises GGUFError if the format cannot hold them.
    """
    tensors = tuple(tensors)
    header = encode_header(metadata, tensors)
    offsets, end = place(tensors, len(header), alignment_of(None, metadata))
    return Layout(len(header), offsets, end)


def padded(size: int, alignment: int) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment


def place(tensors: Iterable[TensorSpec], start: int, alignment: int) -> tuple[dict[str, int], int]:
    """Where each tensor starts when the first starts at `start`, and where the padding of the last ends."""
    offsets = {}
    for tensor in tensors:
        offsets[tensor.name] = start
        start += padded(tensor.nbytes, alignment)
    return offsets, start


def encode_header(metadata: Metadata, tensors: Sequence[TensorSpec]) -> bytes:
    """Everything before the data, padding included; raises GGUFError if the format cannot hold it."""
    for tensor in tensors:
        check_tensor(None, tensor)
    check_names(None, tensors)
    alignment = alignment_of(None, metadata)
    offsets, _ = place(tensors, 0, alignment)
    infos = [encode_info(tensor, offsets[tensor.name]) for tensor in tensors]
    header = b"".join([encode_keys(metadata, len(tensors)), *infos])
    return header.ljust(padded(len(header), alignment), b"\0")


def encode_keys(metadata: Metadata, tensor_count: int) -> bytes:
    """The header up to the first tensor."""
    check_count(None, "number of keys", len(metadata), MAX_KEYS)
    check_count(None, "number of tensors", tensor_count, MAX_TENSORS)
    pairs = [MAGIC, struct.pack("<IQQ", VERSION, tensor_count, len(metadata))]
    for key, value in metadata.items():
        check_text(None, "key", key.encode("utf-8", "surrogatepass"), MAX_KEY_BYTES)
        try:
            pairs += encode_text(key), value.encoded
        except UnicodeEncodeError as error:
            raise GGUFError(None, f"key {quoted(key)}", expected="text that UTF-8 can hold", found=error) from error
    return b"".join(pairs)


def encode_info(tensor: TensorSpec, offset: int) -> bytes:
    """The header's entry of a (checked) tensor whose data starts `offset` bytes after the header."""
    dimensions = len(tensor.shape)
    fixed = struct.pack(f"<I{dimensions}QIQ", dimensions, *tensor.shape, tensor.type.id, offset)
    return encode_text(tensor.name) + fixed


def quoted(text: str | bytes) -> str:
    """`text` for an error message: control characters escaped, and short."""
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:60]}… ({len(text):,} long)"


def check_count(path: Path | None, field: str, found: int, limit: int) -> None:
    """Raise GGUFError if there are more than `limit`."""
    if found > limit:
        raise GGUFError(path, field, expected=f"at most {limit:,}", found=f"{found:,}")


def check_text(path: Path | None, field: str, raw: bytes, limit: int) -> str:
    """A key or a name, as text: UTF-8, at most `limit` bytes and without a zero, where ggml would cut it."""
    if not 0 < len(raw) <= limit:
        raise GGUFError(path, field, expected=f"1 to {limit:,} bytes", found=f"{len(raw):,} bytes: {quoted(raw)}")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise GGUFError(path, field, expected="UTF-8", found=quoted(raw)) from None
    if "\0" in text:
        raise GGUFError(path, field, expected="text without a zero byte", found=quoted(text))
    return text


def check_names(path: Path | None, tensors: Iterable[TensorSpec]) -> None:
    """Raise GGUFError if two tensors have the same name."""
    seen = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise GGUFError(path, f"tensor {quoted(tensor.name)}", expected="unique names", found="a second one")
        seen.add(tensor.name)


def check_tensor(path: Path | None, tensor: TensorSpec) -> None:
    """Raise GGUFError unless ggml can hold a tensor of that name, shape and type."""
    field, shape = f"tensor {quoted(tensor.name)}", tensor.shape
    check_text(path, f"{field}: name", tensor.name.encode("utf-8", "surrogatepass"), MAX_NAME_BYTES)
    check_count(path, f"{field}: number of dimensions", len(shape), MAX_DIMENSIONS)
    for axis, size in enumerate(shape):
        if not 1 <= size < 1 << 63:
            found = size - (1 << 64) if size >= 1 << 63 else size  # as the signed number that ggml reads
            raise GGUFError(path, f"{field}: dimension {axis}", expected="1 or more", found=found)
    if tensor.weights >= 1 << 63:
        raise GGUFError(path, f"{field}: shape", expected="fewer than 2^63 weights", found=shape)
    if tensor.cols % tensor.type.block:
        expected = f"a multiple of {tensor.type.block}, the block of {tensor.type.name}"
        raise GGUFError(path, f"{field}: dimension 0", expected=expected, found=tensor.cols)


def alignment_of(path: Path | None, metadata: Metadata) -> int:
    """What `general.alignment` says, 32 without; GGUFError unless it is a u32, a power of two, at most 1 MiB."""
    value = metadata.get(ALIGNMENT_KEY)
    if value is None:
        return DEFAULT_ALIGNMENT
    if value.type is not ValueType.UINT32:
        raise GGUFError(path, ALIGNMENT_KEY, expected="type UINT32", found=f"type {value.type.name}")
    alignment: int = value.value
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GGUFError(path, ALIGNMENT_KEY, expected=f"a power of two up to {MAX_ALIGNMENT:,}", found=alignment)
    return alignment
