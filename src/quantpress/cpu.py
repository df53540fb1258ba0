"""How many threads to use where the user does not say."""

from __future__ import annotations

import os

__all__ = ["default_threads"]


def default_threads() -> int:
    """The processors that this process may run on (fewer than the machine has, in a container or under taskset)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
