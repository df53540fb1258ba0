"""A file cut off, inflated, or changed anywhere: it is refused at no cost, or parses, and then ggml reads the same."""

from __future__ import annotations

import resource
import struct
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpress.errors import GGUFError
from quantpress.gguf import read
from tests.corrupt import forge
from tests.corrupt.forge import TYPE_F32, TYPE_Q4_K, Forge, info
from tests.gguf import ggml


def test_every_truncation(tmp_path: Path) -> None:
    content, path = Forge().bytes()[:-16], tmp_path / "cut.gguf"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(GGUFError):
            read(path)


def test_hostile_counts_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    """The hang of 43 bytes and its kin: counts, lengths and shapes as large as they go."""
    hostile = [
        Forge(keys=(), infos=(), data=b"", key_count=(1 << 64) - 1),
        Forge(keys=(forge.array(b"k", forge.U8, (1 << 64) - 1, b""),), infos=(), data=b""),
        Forge(keys=(forge.array(b"k", forge.STRING, (1 << 61) + 1, b""),), infos=(), data=b""),
        Forge(keys=(forge.array(b"k", forge.ARRAY, 1 << 40, b""),), infos=(), data=b""),
        Forge(infos=(info(b"t", ((1 << 63) - 1,), TYPE_F32, 0),)),
    ]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for number, forged in enumerate(hostile):
        with pytest.raises(GGUFError):
            read(forged.write(tmp_path / f"{number}.gguf"))
    assert time.process_time() - start < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


def parses_or_refuses(content: bytes, path: Path) -> bool:
    """Whether it parses; anything but success or GGUFError, or a file that ggml refuses, fails the test."""
    path.write_bytes(content)
    try:
        model = read(path)
    except GGUFError:
        return False
    with model:
        assert all(model.data(name).nbytes == tensor.nbytes for name, tensor in model.tensors.items())
        seen = ggml.read(path)
        assert list(seen.tensors) == list(model.tensors)
        assert len(seen.metadata) == len(model.metadata) + len(model.split)
    return True


KEYS = (
    forge.u32(b"general.alignment", 32),
    forge.array(b"bools", forge.BOOL, 3, b"\0\1\0"),
    forge.array(b"texts", forge.STRING, 3, forge.text(b"a") + forge.text(b"") + forge.text("é".encode())),
    forge.array(b"floats", forge.F32, 2, struct.pack("<2f", 1.0, -0.5)),
    forge.key(b"flag", forge.BOOL, b"\1"),
    forge.u16(b"split.count", 1),
)
RICH = Forge(
    keys=KEYS, infos=(info(b"q", (256, 2, 3), TYPE_Q4_K, 0), info(b"s", (), TYPE_F32, 864)), data=bytes(range(128)) * 7
).bytes()


def test_every_byte_of_the_header_changed(tmp_path: Path) -> None:
    verdicts = set()
    for position in range(len(RICH) - 896):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF, RICH[position] ^ 0x01, RICH[position] ^ 0x20):
            content = RICH[:position] + bytes([value]) + RICH[position + 1 :]
            verdicts.add(parses_or_refuses(content, tmp_path / "mutant.gguf"))
    assert verdicts == {True, False}


edits = st.lists(st.tuples(st.integers(0, len(RICH) - 896), st.binary(max_size=9), st.integers(0, 9)), max_size=6)


@given(edits=edits, size=st.one_of(st.none(), st.integers(0, len(RICH))))
@settings(max_examples=300, deadline=1000)
def test_mutants_are_parsed_or_refused(edits: list[tuple[int, bytes, int]], size: int | None) -> None:
    """Bytes replaced, inserted and removed anywhere in the header, and the end cut off."""
    content = RICH
    for position, inserted, removed in edits:
        content = content[:position] + inserted + content[position + removed :]
    with tempfile.TemporaryDirectory() as folder:
        parses_or_refuses(content[:size], Path(folder) / "mutant.gguf")
