"""Puts a GGUF file together byte by byte, right or wrong; it shares no code with quantpress."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 2, 4, 5, 6, 7, 8, 9, 10
TYPE_F32, TYPE_Q4_0, TYPE_Q4_K = 0, 2, 12


def text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def key(name: bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(name: bytes, item: int, count: int, payload: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", item, count) + payload)


def u16(name: bytes, value: int) -> bytes:
    return key(name, U16, struct.pack("<H", value))


def u32(name: bytes, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def i32(name: bytes, value: int) -> bytes:
    return key(name, I32, struct.pack("<i", value))


def info(name: bytes, shape: Sequence[int], kind: int, offset: int, *, dimensions: int | None = None) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *(size % (1 << 64) for size in shape))
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


@dataclass(frozen=True)
class Forge:
    """By default a valid file of two keys and two F32 tensors, `a` [8, 2] and `b` [4]."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: tuple[bytes, ...] = (u32(b"answer", 42), key(b"name", STRING, text(b"small")))
    infos: tuple[bytes, ...] = (info(b"a", (8, 2), TYPE_F32, 0), info(b"b", (4,), TYPE_F32, 64))
    data: bytes = bytes(range(96))
    alignment: int = 32
    key_count: int | None = None
    tensor_count: int | None = None

    def header(self) -> bytes:
        counts = (
            len(self.infos) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        return b"".join([self.magic, struct.pack("<IQQ", self.version, *counts), *self.keys, *self.infos])

    def bytes(self) -> bytes:
        header = self.header()
        return header + b"\0" * (-len(header) % self.alignment) + self.data

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path
