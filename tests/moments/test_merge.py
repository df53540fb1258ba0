"""Merging, the commands, and what `show` says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from quantpress import gguf, moments
from quantpress.cli import app
from quantpress.engine import Engine
from quantpress.errors import ImatrixError, InputError, PlanError
from quantpress.moments.collect import Collection, collect
from quantpress.origin import Header
from quantpress.text import chunks
from tests.moments.test_file import DATA, EXPERTS, write


def run(*arguments: str | Path, code: int = 0) -> Result:
    found = CliRunner().invoke(app, ["imatrix", *map(str, arguments)])
    assert found.exit_code == code, found.output
    return found


def test_merged_halves_are_the_whole(moe: Path, prose: Path, tmp_path: Path) -> None:
    """Of the same batches: equal but for the rounding of sums to float32. Samples of both, as many as before."""
    parts = {"a": slice(0, 8), "b": slice(8, 16), "whole": slice(0, 16)}
    with Engine(moe, threads=1, sequences=4) as engine:
        tokens = chunks(engine, [prose], 512, limit=16)
        for name, part in parts.items():
            header = Header((f"{name}.txt",), len(tokens[part]), 512)
            collect(engine, tokens[part], Collection(tmp_path / f"{name}.gguf", header, name))
    out = moments.merge([tmp_path / "a.gguf", tmp_path / "b.gguf"], tmp_path / "merged.gguf")
    with moments.read(out) as found, moments.read(tmp_path / "whole.gguf") as whole:
        assert (found.chunk_count, found.chunk_size, found.datasets) == (16, 512, ("a.txt", "b.txt"))
        assert found.names == whole.names
        for name, entry in whole.entries.items():
            assert np.array_equal(found.entries[name].counts, entry.counts)
            assert np.array_equal(found.entries[name].sampled, entry.sampled)
            for matrix in range(entry.matrices):
                a, b = found.sums(name, matrix), whole.sums(name, matrix)
                size = np.abs(b).max()
                np.testing.assert_allclose(a, b, rtol=2e-7, atol=2e-7 * size)
    with moments.read(tmp_path / "a.gguf") as a, moments.read(tmp_path / "b.gguf") as b, moments.read(out) as found:
        for name in found.entries:
            both = np.concatenate([a.sample(name, 0), b.sample(name, 0)])
            kept = found.sample(name, 0)
            assert np.array_equal(kept, both[np.arange(len(kept)) * len(both) // len(kept)])


def test_of_different_models(tmp_path: Path, collected: Path) -> None:
    other = write(tmp_path / "other.gguf")
    with pytest.raises(ImatrixError, match=r"other\.gguf: inputs: .* in one only\. It cannot be merged with"):
        moments.merge([moments.beside(collected), other], tmp_path / "out.gguf")
    wider = DATA | {f"{EXPERTS}.moments": np.ones((3, 9), np.float32), f"{EXPERTS}.blocks": np.array([[3]])}
    wider[f"{EXPERTS}.sample"] = np.ones((5, 3), np.float32)
    with pytest.raises(ImatrixError, match=rf"wider\.gguf: {EXPERTS}: expected"):
        moments.merge([other, write(tmp_path / "wider.gguf", data=wider)], tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_the_command_merges_what_is_beside(collected: Path, tmp_path: Path) -> None:
    lone, out = tmp_path / "lone.gguf", tmp_path / "out.gguf"
    shutil.copy(collected, lone)
    found = run("merge", collected, collected, "--out", out)
    assert found.stdout.split() == [str(out), str(tmp_path / "out.moments.gguf")]
    with moments.read(moments.beside(out)) as twice, moments.read(moments.beside(collected)) as once:
        for name, entry in once.entries.items():
            assert np.array_equal(twice.entries[name].counts, 2 * entry.counts)
            assert np.array_equal(twice.sums(name, 0), 2 * once.sums(name, 0))
    found = run("merge", collected, lone, "--out", tmp_path / "half.gguf")
    assert found.stdout.split() == [str(tmp_path / "half.gguf")]
    assert "half.moments.gguf: not written, because there is no" in found.stderr
    found = run("merge", lone, lone, "--out", tmp_path / "none.gguf")
    assert "moments" not in found.output


def test_the_command_collects(moe: Path, prose: Path, tmp_path: Path) -> None:
    out = tmp_path / "I.gguf"
    arguments = (moe, "--text", prose, "--chunks", "2", "--context", "128", "--out", out)
    found = run(*arguments, "--moments", "--moments-memory", "1MB")
    assert found.stdout.split() == [str(out), str(tmp_path / "I.moments.gguf")]
    assert "passes over the text" in found.stderr
    found = run(*arguments, "--moments", "--moments-memory", "1", code=1)
    assert isinstance(found.exception, PlanError)
    assert "moments-memory: expected a number with a unit" in str(found.exception)


def test_show(collected: Path, moe: Path, tmp_path: Path) -> None:
    path = moments.beside(collected)
    table = run("show", path, "--model", moe).stdout
    assert "blk.0.attn_k.weight, blk.0.attn_v.weight" in table
    assert "every matrix saw more tokens than columns" in table
    rows = {row["input"]: row for row in json.loads(run("show", path, "--json").stdout)}
    row = rows["blk.1.ffn_gate_exps.weight"]
    assert row["weights"] == ["blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"]
    assert (row["columns"], row["matrices"], row["singular"]) == (64, 8, [])
    few = run("show", write(tmp_path / "few.gguf")).stdout
    assert "2 with too few tokens" in few
    assert f"{EXPERTS}, matrix 1: fewer tokens than columns" in few
    assert f"{EXPERTS}, matrix 2" not in few
    with gguf.read(moe):
        found = run("show", tmp_path / "few.gguf", "--model", moe, code=1)
    assert isinstance(found.exception, ImatrixError)
    found = run("show", path, "--plot", tmp_path / "p.svg", code=1)
    assert isinstance(found.exception, InputError)
