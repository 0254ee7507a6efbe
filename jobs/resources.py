"""What this process may use."""

from __future__ import annotations

import os

from mspipeline.telemetry.allocation import own_cpus


def threads_for(wanted: int) -> int:
    """The number of threads for a framework: `wanted`, or for 0 every core that is this process's own."""
    return wanted or own_cpus(os.environ)


def slices_or(asked: int | None) -> int:
    """Slices a batch of inference, 8 where the job does not say."""
    return asked or 8


def patches_or(asked: int | None) -> int:
    """Patches a batch of inference, 1,024 where the job does not say."""
    return asked or 1024
