"""What must not happen to files, whatever is wrong with the input or breaks meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress import gguf
from quantpress.errors import DiskFullError, GGUFError, ImatrixError, InputError, OutputError, PlanError
from quantpress.progress import Progress
from quantpress.quantize import quantize
from quantpress.recipes import MIXES
from tests.oracle import llama_quantize as oracle
from tests.oracle import models


def test_an_imatrix_of_another_model(dense: Path, bf16_gguf: Path, tmp_path: Path) -> None:
    imatrix = models.importance(bf16_gguf, tmp_path / "i.gguf")
    with pytest.raises(ImatrixError, match=r"i\.gguf: .*expected .*Tiny-BF16\.gguf"):
        quantize(dense, types=["Q4_0"], imatrix=imatrix.path, out=tmp_path / "out")


@pytest.mark.parametrize(("tensor", "type"), [("blk.0.ffn_up.weight", "Q4_K_M"), ("output_norm.weight", "Q8_0")])
def test_nan_in_a_weight(tensor: str, type: str, dense: Path, tmp_path: Path) -> None:
    model = tmp_path / "Tiny-BF16.gguf"
    shutil.copy(dense, model)
    with gguf.read(dense) as source, model.open("r+b") as file:
        file.seek(source.tensors[tensor].offset + 40)
        file.write(b"\xc0\x7f\xc0\x7f")
    with pytest.raises(InputError, match=rf"Tiny-BF16\.gguf: tensor {tensor}, row 0, column \d+: expected a finite"):
        quantize(model, types=[type], out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_to_do_and_bad_settings(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="types: expected at least one type or plan"):
        quantize(dense, out=tmp_path)
    with pytest.raises(PlanError, match=r"expected one of .*Q4_K_M.*found Q4_K_Q"):
        quantize(dense, types=["Q4_K_Q"], out=tmp_path)
    with pytest.raises(PlanError, match="encoder: expected one of quantpress, ggml, found none"):
        quantize(dense, types=["Q4_0"], out=tmp_path, encoder="none")
    with pytest.raises(PlanError, match=r"effort of quantpress: expected one of fast, .*compensated, found slow"):
        quantize(dense, types=["Q4_0"], out=tmp_path, effort="slow")
    with pytest.raises(PlanError, match="effort of ggml: expected one of normal, found best"):
        quantize(dense, types=["Q4_0"], out=tmp_path, encoder="ggml", effort="best")
    with pytest.raises(PlanError, match="threads: expected at least 1, found 0"):
        quantize(dense, types=["Q4_0"], out=tmp_path, threads=0)
    with pytest.raises(GGUFError):
        quantize(tmp_path / "none.gguf", types=["Q4_0"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_place_of_the_source(dense: Path, tmp_path: Path) -> None:
    model = tmp_path / "Tiny-BF16.gguf"
    shutil.copy(dense, model)
    with pytest.raises(PlanError, match=r"Tiny-BF16\.gguf: output: expected another file .* Choose another place"):
        quantize(model, types=["Q4_0", "BF16"], out=tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(PlanError, match="output: expected another file than the source"):
        quantize(tmp_path / "linked" / model.name, types=["BF16"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".gguf"] == [model.name]
    assert model.read_bytes() == dense.read_bytes()


def test_a_part_in_place_of_a_part_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "Tiny-BF16").mkdir()
    source = models.save(tmp_path / "Tiny-BF16" / "Tiny-BF16.gguf", split_bytes=60_000)
    with pytest.raises(PlanError, match="output: expected another file than the source"):
        quantize(source, types=["BF16"], out=tmp_path, split_bytes=60_000)


class Interrupted(Progress):
    """Ctrl-C after some tiles."""

    def __init__(self, tiles: int) -> None:
        self.tiles = tiles

    @contextmanager
    def task(self, label: str, total: int, unit: str = "") -> Iterator[Any]:
        def advance(amount: int) -> None:
            self.tiles -= 1
            if not self.tiles:
                raise KeyboardInterrupt

        yield advance


def test_an_interrupted_run_leaves_nothing(dense: Path, tmp_path: Path) -> None:
    old = tmp_path / "Tiny-Q4_0.gguf"
    old.write_bytes(b"an older file")
    with pytest.raises(KeyboardInterrupt):
        quantize(dense, types=["Q4_0", "Q8_0"], out=tmp_path, progress=Interrupted(3))
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_bytes() == b"an older file"
    quantize(dense, types=["Q4_0", "Q8_0"], out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [old.name, "Tiny-Q8_0.gguf"]
    assert gguf.read(old).get("general.file_type") == MIXES["Q4_0"].file_type


def test_a_disk_too_small_for_all_files_together(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [path.stat().st_size for path in quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "a")]
    free = sum(sizes) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(DiskFullError, match=f"{sum(sizes):,} bytes needed, {free:,} free") as raised:
        quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "b")
    assert (raised.value.needed, raised.value.free) == (sum(sizes), free)
    assert list((tmp_path / "b").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = os.pwrite, []

    def pwrite(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DiskFullError, match="bytes needed"):
        quantize(dense, types=["Q8_0", "Q6_K"], out=tmp_path / "b")
    assert len(calls) > 12
    assert list((tmp_path / "b").iterdir()) == []


def test_a_folder_that_cannot_be_made(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the folder cannot be made"):
        quantize(dense, types=["Q8_0"], out=tmp_path / "file" / "out")


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    """A tensor of 256 MB in BF16 (a sparse file) goes through a process that grows by less than a quarter of that."""
    from tests.recipes.shapes import write as write_header

    shapes = {"token_embd.weight": (4096, 64), "blk.0.ffn_up.weight": (4096, 32768)}
    keys = {"block_count": 1, "embedding_length": 4096, "attention.head_count": 8, "attention.head_count_kv": 8}
    model = write_header(tmp_path / "large.gguf", "llama", shapes, keys)
    code = (
        "import sys\n"
        "from quantpress.quantize import quantize\n"
        "from tests.oracle.memory import peak\n"
        "quantize(sys.argv[1], types=['Q4_0'], out=sys.argv[3], threads=2)\n"
        "before = peak()\n"
        "quantize(sys.argv[2], types=['Q4_0', 'TQ1_0', 'BF16'], out=sys.argv[3], threads=2)\n"
        "print(peak() - before)\n"
    )
    small = models.save(tmp_path / "small.gguf")
    command = [sys.executable, "-c", code, str(small), str(model), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True, cwd=oracle.ROOT)
    assert int(done.stdout) < 64e6
