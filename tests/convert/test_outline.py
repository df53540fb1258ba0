"""The outline of a conversion: the converted file without its weights."""

from __future__ import annotations

from pathlib import Path

from quantpress import gguf
from quantpress.convert import outline


def test_it_has_the_header_and_the_size_of_what_convert_writes(demo: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    path = outline(demo, tmp_path / bf16_gguf.name)
    assert path.stat().st_size == bf16_gguf.stat().st_size
    with gguf.read(path) as found, gguf.read(bf16_gguf) as expected:
        assert found.metadata == expected.metadata
        assert found.tensors == expected.tensors
        assert not any(found.data(name).any() for name in found.tensors)
