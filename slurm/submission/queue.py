"""SLURM's queue, asked: which of this user's jobs are still in it, in what state, and why they wait.

squeue is asked and not sacct: it needs no accounting, it is right the moment sbatch, scancel or a requeue returns, and
what it does not list is over. One call tells of every job, and serves all who ask within a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from mspipeline.slurm.programs import NOT_HERE, ask

log = logging.getLogger(__name__)

FRESH_S = 1.0
PATIENCE_S = 20.0
"""Timeout for one answer; SLURM's own programs try for a minute or more while the controller is down."""
SCANCEL_JOBS = 500
"""Jobs in one call: the length of a command line is limited."""
SILENT = "UNKNOWN"
"""The state of a job that nobody answers for."""
GOES_ON = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING")
"""No end of a job: what accounting says while the controller cannot tell it better."""
NO_SUCH_JOB = "Invalid job id"
LAUNCH_FAILED = "launch failed requeued held"
"""Why a job is held that no node could start. One that people hold is theirs to release."""
HOPELESS = {
    "DependencyNeverSatisfied": "a job that it waits for has failed",
    "PartitionConfig": "its partition is not made for what it asks for; ask for less in the site file",
    "PartitionNodeLimit": "its partition has fewer nodes than it asks for; ask for less in the site file",
    "PartitionTimeLimit": "its partition ends jobs sooner; lower time_min in the site file",
    "BadConstraints": "no node has what it asks for; ask for less in the site file",
    "AccountNotAllowed": "its account may not use the partition; correct account in the site file",
    "QOSNotAllowed": "its QOS may not use the partition; correct qos in the site file",
    "InvalidAccount": "its account does not exist any more; correct account in the site file",
    "InvalidQOS": "its QOS does not exist any more; correct qos in the site file",
    "QOSMaxWallDurationPerJobLimit": "its QOS ends jobs sooner; lower time_min in the site file",
    "AssocMaxWallDurationPerJobLimit": "its account ends jobs sooner; lower time_min in the site file",
    "QOSMaxCpuPerJobLimit": "its QOS gives a job fewer cores; lower cpus in the site file",
    "AssocMaxCpuPerJobLimit": "its account gives a job fewer cores; lower cpus in the site file",
    "QOSMaxMemoryPerJob": "its QOS gives a job less memory; lower mem_gb in the site file",
    "AssocMaxMemPerJob": "its account gives a job less memory; lower mem_gb in the site file",
    "QOSMinCpuNotSatisfied": "its QOS wants jobs with more cores; raise cpus in the site file",
    "QOSMinGRES": "its QOS wants jobs with more GPUs; correct gres in the site file",
}
"""Why a job waits that will never start by itself, and what to do."""
_HELD = {
    "JobHeldUser": "held; `scontrol release {job}` lets it go",
    "job requeued in held state": "held; `scontrol release {job}` lets it go",
    "JobHeldAdmin": "held by the site's staff; ask them",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs at present",
}


class Queue:
    """What squeue answered last. An array's elements are jobs of their own, `12_0`."""

    def __init__(self, fresh_s: float = FRESH_S, patience_s: float = PATIENCE_S) -> None:
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._asked = float("-inf")
        self._silent = False
        self._problem = ""
        self._jobs: dict[str, tuple[str, str]] | None = None

    def state(self, job_id: str) -> str | None:
        """PENDING, RUNNING, COMPLETING, ...; None where the job is over; UNKNOWN where nobody answers."""
        self._refresh()
        return SILENT if self._jobs is None else self._jobs.get(job_id, (None, ""))[0]

    def reason(self, job_id: str) -> str:
        """Why a job waits, in SLURM's word; empty where it does not wait or nobody answers."""
        self._refresh()
        state, reason = (self._jobs or {}).get(job_id, ("", ""))
        return "" if state == "RUNNING" or reason == "None" else reason

    def answers(self) -> bool:
        """Whether squeue has just answered."""
        self._refresh()
        return self._jobs is not None

    def stuck(self) -> bool:
        """Whether any job waits that will not start by itself."""
        self._refresh()
        return any(reason in HOPELESS or reason == LAUNCH_FAILED for _, reason in (self._jobs or {}).values())

    def remark(self, job_id: str) -> str:
        """What people should know of a job that is in the queue; mostly nothing."""
        if not self.answers():
            if self._problem == NOT_HERE:
                return "no squeue on this machine: ask on the cluster"
            return "SLURM does not answer; what runs goes on"
        reason = self.reason(job_id)
        if reason == LAUNCH_FAILED:
            return f"a node could not start it ({reason})"
        if reason in HOPELESS:
            return f"{reason}: {HOPELESS[reason]}"
        return _HELD.get(reason, "").format(job=job_id)

    def forget(self) -> None:
        """Ask again next time: this process has changed the queue."""
        self._asked = float("-inf")

    def _refresh(self) -> None:
        if time.monotonic() - self._asked <= self._fresh_s:
            return
        self._jobs, self._problem = _squeue(self._patience_s)
        self._asked = time.monotonic()
        if self._jobs is None and not self._silent:
            log.warning("squeue: %s; asked again until it answers", self._problem)
        self._silent = self._jobs is None


QUEUE = Queue()


def queued(job_ids: Iterable[str]) -> bool:
    """Whether any of these jobs still waits or runs; True where nobody answers."""
    return any(QUEUE.state(job) is not None for job in job_ids)


def cancel(job_ids: Iterable[str]) -> None:
    """Take jobs out of the queue: TERM to all they run, KILL after the cluster's KillWait. What is over stays so."""
    _scancel([], job_ids)


def kill(job_ids: Iterable[str]) -> None:
    """End all that jobs run at once, and take those that wait out of the queue."""
    _scancel(["--signal=KILL", "--full"], job_ids)


def release(job_id: str) -> None:
    """Let a held job go."""
    problem = ask(["scontrol", "release", job_id], timeout_s=PATIENCE_S).problem
    if problem:
        log.warning("scontrol release %s: %s", job_id, problem)
    QUEUE.forget()


def end_of(job_id: str) -> str:
    """The state in which a job ended: COMPLETED, FAILED, CANCELLED, NODE_FAIL, TIMEOUT, ...; empty where none can tell.

    The controller remembers a job for some minutes (MinJobAge), accounting for ever, where the cluster has it. SILENT
    where neither answers, which they may do later.
    """
    shown = ask(["scontrol", "show", "job", "--oneliner", job_id], timeout_s=PATIENCE_S)
    for word in ("" if shown.problem else shown.output).split():
        if word.startswith("JobState="):
            return word.partition("=")[2]
    rows = _sacct(job_id, "State")
    if rows and rows[0] and rows[0].split()[0] not in GOES_ON:
        return rows[0].split()[0]
    answered = not shown.problem or NO_SUCH_JOB in shown.problem or shown.problem == NOT_HERE
    return "" if answered else SILENT


def peak_bytes(job_id: str) -> int | None:
    """The most memory that one step of a job had at a time, as accounting says; None where it does not."""
    sizes = [_size(row) for row in _sacct(job_id, "MaxRSS")]
    return max((size for size in sizes if size), default=None)


def _sacct(job_id: str, column: str) -> list[str]:
    command = ["sacct", "--noheader", "--parsable2", f"--jobs={job_id}", f"--format={column}"]
    answer = ask(command, timeout_s=PATIENCE_S)
    return [] if answer.problem else answer.output.splitlines()


def _size(text: str) -> int | None:
    """Bytes of what sacct prints, `721992K`.

    >>> _size("1.5G"), _size("")
    (1610612736, None)
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    try:
        return int(float(text.rstrip("KMGT")) * units.get(text[-1:], 1))
    except ValueError:
        return None


def _scancel(options: list[str], job_ids: Iterable[str]) -> None:
    jobs = list(job_ids)
    for start in range(0, len(jobs), SCANCEL_JOBS):
        command = ["scancel", "--quiet", *options, *jobs[start : start + SCANCEL_JOBS]]
        problem = ask(command, timeout_s=PATIENCE_S).problem
        if problem:
            log.warning("scancel: %s", problem)
    QUEUE.forget()


def _squeue(patience_s: float) -> tuple[dict[str, tuple[str, str]] | None, str]:
    """State and reason by job; None where there is no answer, and the problem.

    --all: jobs in a partition that is hidden are in the queue too.
    """
    command = ["squeue", "--noheader", "--all", "--array", "--me", "--format=%i|%T|%r"]
    answer = ask(command, timeout_s=patience_s)
    if answer.problem:
        return None, answer.problem
    rows = (line.split("|", 2) for line in answer.output.splitlines())
    return {row[0].strip(): (row[1].strip(), row[2].strip().replace("_", " ")) for row in rows if len(row) == 3}, ""
