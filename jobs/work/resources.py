"""What this process may use."""

from __future__ import annotations

import os

from mspipeline.telemetry.allocation import own_cpus


def threads_for(wanted: int) -> int:
    """The number of threads for a framework: `wanted`, or for 0 every core that is this process's own."""
    return wanted or own_cpus(os.environ)
