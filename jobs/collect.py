"""Gather run folders into tables: `python -m mspipeline.jobs collect FILE`."""

from __future__ import annotations

from mspipeline.collect.tables import Collected, collect
from mspipeline.config import CollectJob


def collect_job(job: CollectJob) -> Collected:
    """Write the tables of `job.runs` into `job.output`.

    What could not be collected is in `problems`, a line each; `Collected.check` raises TableError with them.
    Raises TableError where there is no run folder, StorageError where `job.output` cannot be written.
    """
    return collect(job.runs, job.output)
