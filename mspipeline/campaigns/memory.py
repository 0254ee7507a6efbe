"""Whether a cell died because memory ran out, how much it had, and what to set instead."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pyarrow.compute as pc

from mspipeline.campaigns.attempt import KILLED, AttemptRecord
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.errors import TableError
from mspipeline.runs import RunPaths
from mspipeline.telemetry.schema import SAMPLES_STREAM
from mspipeline.telemetry.shard import read_stream

GIB = 2**30
MARGIN = 1.25
_NEAR = 0.9
"""A cell that was killed with this share of its memory in use most likely died of it."""


def ran_out_of_memory(
    cell_folder: Path, attempt: AttemptRecord, scheduler: Scheduler, mem_gb: float | None, log_text: str
) -> str:
    """The message for a cell that ran out of memory; empty where it did not.

    mem_gb: at which the scheduler ends it, None where it does not. log_text: the end of what the attempt wrote. The
    peak is the first that is known: the scheduler's word in the log, its accounting, the samples beside the job.
    """
    reported = scheduler.memory_kill(log_text)
    if reported is not None:
        peak_bytes, limit_bytes = reported
        return _advice("killed by its memory limit", peak_bytes, limit_bytes / GIB)
    last = log_text.strip().rpartition("\n")[2]
    if attempt.exit_code not in (None, KILLED):
        return _advice("memory ran out", _sampled(cell_folder), mem_gb) if "MemoryError" in last else ""
    peak = _sampled(cell_folder)
    if scheduler.end_of(attempt.job_id).reason == "out of memory":
        return _advice("killed by its memory limit", scheduler.peak_bytes(attempt.job_id) or peak, mem_gb)
    if attempt.memory_ran_out:
        return _advice("killed by the kernel, for memory ran out", peak, mem_gb)
    if mem_gb and peak and peak > _NEAR * mem_gb * GIB:
        return _advice("killed, most likely by its memory limit", peak, mem_gb)
    return ""


def _advice(what: str, peak: int | None, limit_gb: float | None) -> str:
    """The words, the peak, and what to set where the site has a limit of its own."""
    had = f" at {peak / GIB:.2f} GB" if peak else ""
    of = f" of {limit_gb:g}" if limit_gb and peak else f" (mem_gb = {limit_gb:g})" if limit_gb else ""
    better = math.ceil(2 * MARGIN * max(peak or 0, (limit_gb or 0) * GIB) / GIB) / 2
    if limit_gb:
        return f"{what}{had}{of}; set mem_gb = {better:g} or more in the site file, or a smaller batch_size"
    return f"{what}{had}; run fewer cells at a time, or with a smaller batch_size"


def _sampled(cell_folder: Path) -> int | None:
    """The most resident memory that the samples of the latest job show, in bytes; None where there are none."""
    attempts = [paths for paths in RunPaths(cell_folder).attempts() if paths.samples.exists()]
    if not attempts:
        return None
    latest = max(attempts, key=lambda paths: paths.samples.stat().st_mtime_ns)
    with suppress(TableError, OSError):
        value = pc.max(read_stream(latest.samples, SAMPLES_STREAM)["rss_bytes"]).as_py()
        return None if value is None else int(value)
    return None
