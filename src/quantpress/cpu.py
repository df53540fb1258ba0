"""The processor: how many threads to use where the user does not say, and which instruction set the core uses."""

from __future__ import annotations

import os
from pathlib import Path

from quantpress import _native
from quantpress.errors import InputError

__all__ = ["default_threads", "instruction_set"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of cgroup v2: microseconds of CPU time in a period, or "max"; the period


def default_threads() -> int:
    """The processors that this process may use: fewer than the machine has under taskset or a container's quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, _QUOTA.read_text().split())
    except (OSError, ValueError):  # another system, or no quota
        return available
    return max(1, min(available, round(quota / period)))


def instruction_set() -> str:
    """The instruction set that the core uses; raises InputError for a QUANTPRESS_ISA that is not available."""
    try:
        return _native.isa()
    except ValueError as error:
        raise InputError(None, str(error)) from error
