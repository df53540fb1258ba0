"""Windows whose logits exceed the memory limit: decoded in pieces, with the results of one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantpress.engine import session as module
from quantpress.engine.activations import activations
from quantpress.engine.messages import Scores, Settings
from quantpress.engine.scoring import record, score
from quantpress.engine.session import Session, logits
from quantpress.errors import DiskFullError

LENGTHS = (560, 1025)  # a last piece of 48 tokens, and of one
FIRST = 270


@pytest.fixture(scope="module")
def session(f32_gguf: Path) -> Session:
    """In this process, where the limit can be lowered."""
    return Session(Settings(str(f32_gguf), 1, 1, 0, "F16"))


@pytest.fixture
def small(session: Session, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lowers the limit to the logits of 530 positions: pieces of one micro-batch, 512 tokens."""
    monkeypatch.setattr(module, "_MAX_LOGIT_BYTES", 530 * session.n_vocab * 4)
    return monkeypatch


def windows(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(6, 4096, size=(2, length), dtype=np.int32)


def test_pieces_are_whole_micro_batches_within_the_limit(session: Session, small: pytest.MonkeyPatch) -> None:
    chunks = windows(1030)
    assert [len(batch) for batch in session.batches(chunks)] == [1, 1]
    shapes = [(start, found.shape) for start, found in session.forward(chunks[:1])]
    assert shapes == [(0, (1, 512, 4096)), (512, (1, 512, 4096)), (1024, (1, 6, 4096))]
    late = session.forward(chunks[:1], first=600)
    assert [(start, found.shape[1]) for start, found in late] == [(600, 424), (1024, 6)]


@pytest.mark.parametrize("length", LENGTHS)
def test_logits(length: int, session: Session, small: pytest.MonkeyPatch) -> None:
    pieces = list(logits(session, windows(length)))
    small.undo()
    whole = list(logits(session, windows(length)))
    assert [found.shape for found in pieces] == [(length, 4096)] * 2
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("length", LENGTHS)
def test_scores(length: int, session: Session, small: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def scores(name: str) -> list[Scores]:
        recorded = list(record(session, windows(length), FIRST, tmp_path / name))
        assert [len(found.nll) for found in recorded] == [length - FIRST - 1] * 2
        unwritten = record(session, windows(length), FIRST, None)
        np.testing.assert_array_equal([found.nll for found in unwritten], [found.nll for found in recorded])
        compared = list(score(session, windows(length), FIRST, tmp_path / name))
        assert max(found.kld.max() for found in compared) < 1e-6  # each row met its own
        assert all(found.same_top.all() for found in compared)
        return compared

    pieces = scores("pieces")
    small.undo()
    whole = scores("whole")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
    for field in Scores._fields:
        np.testing.assert_array_equal([getattr(s, field) for s in pieces], [getattr(s, field) for s in whole])


@pytest.mark.parametrize("length", LENGTHS)
def test_activations(length: int, session: Session, small: pytest.MonkeyPatch) -> None:
    ((_, pieces),) = activations(session, windows(length), 2, False)
    small.undo()
    ((_, whole),) = activations(session, windows(length), 2, False)
    assert pieces.keys() == whole.keys()
    assert len(whole) == 42
    for name, (sums, counts) in whole.items():
        np.testing.assert_array_equal(pieces[name][1], counts, err_msg=name)
        np.testing.assert_array_equal(pieces[name][0], sums, err_msg=name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_says_what_is_needed(session: Session) -> None:
    chunks = windows(64)
    needed = 2 * 31 * (4096 + 4) * 2
    with pytest.raises(DiskFullError, match=f"/dev/full: not enough disk space: {needed:,} bytes needed"):
        list(record(session, chunks, 32, Path("/dev/full")))
