"""SLURM's queue, asked: which of this user's jobs are still in it, and in what state.

squeue is asked and not sacct: it needs no accounting, it is right the moment sbatch, scancel or a requeue returns, and
what it does not list is over. One call tells of every job, and serves all who ask within a second.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterable

log = logging.getLogger(__name__)

FRESH_S = 1.0
SCANCEL_JOBS = 500
"""So many jobs a call: a command line has an end."""


class Queue:
    """What squeue said last. An array's elements are jobs of their own, `12_0`."""

    def __init__(self, fresh_s: float = FRESH_S) -> None:
        self._fresh_s = fresh_s
        self._asked = float("-inf")
        self._states: dict[str, str] | None = None

    def state(self, job_id: str) -> str | None:
        """PENDING, RUNNING, COMPLETING, ...; None where the job is over; UNKNOWN where nobody answers."""
        if time.monotonic() - self._asked > self._fresh_s:
            self._states = _squeue()
            self._asked = time.monotonic()
        return "UNKNOWN" if self._states is None else self._states.get(job_id)

    def forget(self) -> None:
        """Ask again next time: this process has changed the queue."""
        self._asked = float("-inf")


QUEUE = Queue()


def cancel(job_ids: Iterable[str]) -> None:
    """Take jobs out of the queue: TERM to all they run, KILL after the cluster's KillWait. What is over stays so."""
    _scancel([], job_ids)


def kill(job_ids: Iterable[str]) -> None:
    """End all that jobs run at once, and take those that wait out of the queue."""
    _scancel(["--signal=KILL", "--full"], job_ids)


def _scancel(options: list[str], job_ids: Iterable[str]) -> None:
    jobs = list(job_ids)
    for start in range(0, len(jobs), SCANCEL_JOBS):
        command = ["scancel", "--quiet", *options, *jobs[start : start + SCANCEL_JOBS]]
        done = _run(command)
        if done is not None and done.returncode:
            log.warning("scancel: %s", " ".join(done.stderr.split()))
    QUEUE.forget()


def _squeue() -> dict[str, str] | None:
    """State by job; None where there is no answer."""
    done = _run(["squeue", "--noheader", "--array", "--me", "--format=%i|%T"])
    if done is None or done.returncode:
        log.warning("squeue: %s", "not found" if done is None else " ".join(done.stderr.split()))
        return None
    rows = (line.partition("|") for line in done.stdout.splitlines())
    return {job_id.strip(): state.strip() for job_id, _, state in rows}


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
