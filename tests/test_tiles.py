"""Where tensors are cut, how pieces are read, and how threads work on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from quantpress import gguf, tiles
from quantpress.errors import GGUFError
from quantpress.formats import TYPES
from quantpress.gguf import Tensor
from quantpress.tiles import RowReader, cuts, in_threads
from tests.oracle import models


@given(some.integers(1, 5000), some.integers(1, 300), some.integers(1, 9), some.integers(1, 3), some.integers(1, 30))
def test_ranges_cover_each_row_once_within_a_matrix(cols: int, rows: int, experts: int, more: int, types: int) -> None:
    tensor = Tensor("a", (cols, rows, experts, more), TYPES["BF16"], 0)
    last = 0
    for start, stop in cuts(tensor, types):
        assert start == last < stop
        assert start // rows == (stop - 1) // rows
        assert stop - start == 1 or (stop - start) * cols * types <= tiles.TILE
        last = stop
    assert last == tensor.rows


def test_few_types_make_few_ranges() -> None:
    tensor = Tensor("a", (1024, 4096), TYPES["BF16"], 0)
    assert len(list(cuts(tensor))) == 8
    assert len(list(cuts(tensor, 8))) == 64
    assert list(cuts(Tensor("a", (10**9,), TYPES["F32"], 0))) == [(0, 1)]


def test_reads_what_the_map_holds(tmp_path: Path) -> None:
    path = models.save(tmp_path / "a.gguf", split_bytes=40_000)
    with gguf.read(path) as source, RowReader(source) as reader:
        assert len(source.paths) > 2
        for name, tensor in source.tensors.items():
            pieces = [reader.read(tensor, start, stop) for start, stop in cuts(tensor, 200)]
            assert np.array_equal(np.concatenate(pieces), source.data(name))


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    path = models.save(tmp_path / "a.gguf")
    with gguf.read(path) as source, RowReader(source) as reader:
        tensor = source.tensors["blk.1.ffn_down.weight"]
        with path.open("r+b") as file:
            file.truncate(tensor.offset + 100)
        with pytest.raises(GGUFError, match=r"a\.gguf: tensor blk\.1\.ffn_down\.weight: expected 12188 more bytes"):
            reader.read(tensor, 0, 64)


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    path = models.save(tmp_path / "a.gguf")
    with gguf.read(path) as source:
        path.unlink()
        with pytest.raises(GGUFError, match=r"a\.gguf: file: expected a readable file"), RowReader(source):
            pass


def test_jobs_run_at_the_same_time_and_little_ahead() -> None:
    """Two jobs meet at a barrier: they could not one after the other. No more than four are asked for at a time."""
    barrier = threading.Barrier(2, timeout=20)
    asked, done = 0, 0

    def jobs() -> Iterator[Callable[[], int]]:
        nonlocal asked
        for _ in range(20):
            asked += 1
            assert asked - done <= 5
            yield lambda: barrier.wait() and 1

    for _ in in_threads(jobs(), 2):
        done += 1
    assert (asked, done) == (20, 20)


def test_an_exception_ends_it() -> None:
    ran: list[int] = []

    def job(number: int) -> int:
        ran.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_threads(((lambda n=n: job(n)) for n in range(100)), 2))
    assert 4 <= len(ran) < 12


def test_what_is_done_together_with_an_exception_comes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(number: int) -> int:
        if number in (3, 11):
            raise ValueError("this one")
        return number

    monkeypatch.setattr(tiles, "wait", lambda pending, return_when: wait(pending))
    results = in_threads(((lambda n=n: job(n)) for n in range(16)), 8)
    assert sorted(next(results) for _ in range(14)) == [n for n in range(16) if n not in (3, 11)]
    with pytest.raises(ValueError, match="this one"):
        next(results)


def test_closing_waits_for_the_jobs_under_way_and_runs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs under way are held up until the pool has been told to stop; a third is in its queue."""
    stopping, under_way = threading.Event(), threading.Barrier(3, timeout=20)
    finished: list[str] = []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopping.set()
            super().shutdown(wait=wait)

    def held_up() -> None:
        under_way.wait()
        assert stopping.wait(20)
        finished.append("held up")

    monkeypatch.setattr(tiles, "ThreadPoolExecutor", Pool)
    results = in_threads([lambda: None, held_up, held_up, lambda: finished.append("queued")], 2)
    next(results)
    under_way.wait()
    results.close()
    assert finished == ["held up", "held up"]
