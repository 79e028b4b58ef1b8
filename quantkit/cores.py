"""How many CPUs this process may use."""

from __future__ import annotations

import os


def core_count() -> int:
    """CPUs this process may use; containers and taskset count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
