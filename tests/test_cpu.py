"""How many threads there are for us."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantpress import cpu


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 6), ("250000 100000", 2), ("20000 100000", 1), ("900000 100000", 6), ("", 6)]
)
def test_a_container_s_quota_counts(quota: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(cpu, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert cpu.default_threads() == threads


def test_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cpu.default_threads() == 2
