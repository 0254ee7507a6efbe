"""What this process may use."""

from __future__ import annotations

import os


def threads_for(wanted: int) -> int:
    """The number of threads for a framework: `wanted`, or for 0 every core this process may run on."""
    return wanted or len(os.sched_getaffinity(0))
