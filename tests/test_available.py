"""The memory that there is, as files of a made-up /proc and /sys tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpress import available
from quantpress.available import available_memory
from quantpress.errors import InputError


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with 8 GB available and nothing more."""
    root = tmp_path / "root"
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n")
    (root / "proc/self/cgroup").write_text("0::/user/app\n")
    return root


def limit(folder: Path, names: tuple[str, str, str], most: str, used: int, idle: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names[:2], "memory.stat"), (most, str(used), f"anon 5\n{names[2]} {idle}\n"), strict=True):
        (folder / name).write_text(f"{text}\n")


def test_available_memory(machine: Path) -> None:
    assert available_memory(machine) == available.Memory(8_192_000_000, "MemAvailable of /proc/meminfo")
    new, groups = ("memory.max", "memory.current", "inactive_file"), machine / "sys/fs/cgroup"
    limit(groups / "user/app", new, "max", 7, 0)
    assert available_memory(machine).bytes == 8_192_000_000
    limit(groups / "user", new, "3000000000", 1_500_000_000, 500_000_000)  # of the group above
    assert available_memory(machine).bytes == 2_000_000_000
    assert "control group (memory.max)" in available_memory(machine).source
    limit(groups / "user/app", new, "1000", 5000, 1)
    assert available_memory(machine).bytes == 0


def test_available_memory_in_groups_of_version_1(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("5:cpu:/x\n4:memory:/host/path\n0::/\n")
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    limit(machine / "sys/fs/cgroup/memory", old, "4000000000", 1_000_000_000, 0)  # as a container sees its own
    assert available_memory(machine).bytes == 3_000_000_000


def test_a_system_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_memory(tmp_path) == available.Memory(4_096_000, "all of this machine's memory")

    def refuse(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(available.os, "sysconf", refuse)
    with pytest.raises(InputError, match=r"memory: expected a system that tells .*--memory 16GB"):
        available_memory(tmp_path)
