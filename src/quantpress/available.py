"""How much memory this machine has to give, without psutil: what the system says, and a container's limit.

Linux tells what can be had without swapping (MemAvailable of /proc/meminfo). A control group may allow less: the limits
of the process's own group and of those above it count, less what the group holds already, of which file pages that
nobody uses can go. Where there is no /proc, as on macOS, the system tells its whole memory only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantpress.errors import InputError

__all__ = ["Memory", "available_memory"]

_UNIFIED = ("", "memory.max", "memory.current", "inactive_file")  # version 2
_OF_ITS_OWN = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # version 1
"""The controller's folder, the files for its limit and what is in use, and the line of memory.stat."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a program may take, and whose number that is."""

    bytes: int
    source: str


def available_memory(root: Path = Path("/")) -> Memory:
    """What can be taken now, the least that anyone says; `root` is where /proc and /sys are.

    Raises InputError where the system does not say how much memory it has.
    """
    return min([_system(root), *_groups(root)], key=lambda found: found.bytes)


def _system(root: Path) -> Memory:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return Memory(int(found[1]) * 1024, "MemAvailable of /proc/meminfo")
    try:
        return Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "all of this machine's memory")
    except (OSError, ValueError) as error:
        hint = "Say it: --memory 16GB"
        raise InputError(None, "memory", expected="a system that tells its size", found=error, hint=hint) from error


def _groups(root: Path) -> Iterator[Memory]:
    """What the control groups that this process is in have left, those that have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        controller, *names = _OF_ITS_OWN if controllers else _UNIFIED
        top = root / "sys/fs/cgroup" / controller
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and (left := _left(folder, *names)) is not None:
                yield Memory(left, f"the limit of this process's control group ({names[0]})")


def _left(folder: Path, limit: str, usage: str, idle: str) -> int | None:
    """Bytes that a group may still take; None where it has no limit, or is not to be seen from inside a container."""
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        found = re.search(rf"^{idle} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - used + (int(found[1]) if found else 0))
