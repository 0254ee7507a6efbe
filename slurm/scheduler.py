"""SLURM as a scheduler of campaigns: each question is answered by the module that knows it."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mspipeline.campaigns import cell_processes
from mspipeline.campaigns.attempt import AttemptRecord
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.scheduler import JobEnd, JobRequest, NoAnswer, Obstacle, Pair, Place, Scheduler
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import Handle, Submission
from mspipeline.errors import ConfigError
from mspipeline.slurm import modules, site_rules
from mspipeline.slurm.checks.probe import probe_site
from mspipeline.slurm.checks.site_check import check_site, site_findings
from mspipeline.slurm.srun import srun_words
from mspipeline.slurm.submission import queue
from mspipeline.slurm.submission.parameters import batch_script
from mspipeline.slurm.submission.submit import submit_cells

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
KILL_S = 5.0
_WAITS = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_ENDS: dict[str, JobEnd] = {
    end.word: end
    for end in (
        JobEnd("cancelled", "CANCELLED"),
        JobEnd("preempted", "PREEMPTED"),
        JobEnd("time limit", "TIMEOUT"),
        JobEnd("node failed", "NODE_FAIL"),
        JobEnd("out of memory", "OUT_OF_MEMORY"),
        JobEnd("unknown", ""),
    )
}
_OVER_LIMIT = re.compile(r"exceeded memory limit \((\d+) > (\d+)\)")


class Slurm(Scheduler):
    """A SLURM cluster, reached by its programs from one of its login nodes."""

    title = "SLURM"
    queues = True
    runs_here = False
    warning_signal = signal.SIGUSR2.name

    def validate(self, site: Site) -> None:
        site_rules.validate(site)

    def limit(self, site: Site) -> float:
        return float("inf")

    def memory_limit_gb(self, partition: Partition) -> float | None:
        return partition.mem_gb

    def refuse_if_absent(self, what: str) -> None:
        absent = [each for each in PROGRAMS if shutil.which(each) is None]
        if absent:
            raise ConfigError(
                f"{what}: its cells run on SLURM, and this machine has no {', '.join(absent)} on the PATH; "
                "work on a login node of the cluster, or load the module that has SLURM"
            )

    def check(self, site: Site, backends: Sequence[str]) -> None:
        check_site(site, backends)

    def findings(self, site: Site) -> list[Finding]:
        return site_findings(site)

    def probe(self, site: Site, folder: Path) -> list[Finding]:
        return probe_site(site, folder)

    def pack(self, partition: Partition) -> int:
        return partition.pack

    def launcher(self, processes: int, partition: Partition) -> list[str]:
        if processes == 1:
            return []
        # They find each other without an MPI.
        return [*srun_words(mpi="none", cpus=partition.cpus), "--unbuffered", f"--ntasks={processes}"]

    def mpi_launcher(self, site: Site, ranks: int) -> list[str]:
        return site_rules.mpi_command(site, ranks) if ranks > 1 else []

    def script(self, site: Site, device: str, count: int, logs: Path, *, name: str, shape: JobShape) -> str | None:
        return batch_script(site, device, count, logs, name=name, shape=shape)

    def submit(self, request: JobRequest) -> list[Handle]:
        return submit_cells(request)

    def answers(self) -> bool:
        return queue.QUEUE.answers()

    def forget(self) -> None:
        queue.QUEUE.forget()

    def queued(self, submission: Submission) -> bool:
        return queue.queued(submission.jobs)

    def place(self, submission: Submission, jobs: Sequence[str]) -> Place:
        places = [_place(job) for job in jobs]
        order: tuple[Place, ...] = ("on a node", "waits", "unknown")
        return next((each for each in order if each in places), "over")

    def place_of_attempt(self, attempt: AttemptRecord, submission: Submission | None, *, here: bool) -> Place:
        if attempt.node is None:
            return "over" if here else "unknown"
        place = _place(attempt.job_id)
        # Where nobody answers for an attempt on this host, its lock tells.
        return "over" if place == "unknown" and here and submission is None else place

    def remark(self, job_id: str) -> str:
        return queue.QUEUE.remark(job_id)

    def stuck(self) -> bool:
        return queue.QUEUE.stuck()

    def obstacle(self, job_id: str) -> Obstacle | None:
        reason = queue.QUEUE.reason(job_id)
        if reason != queue.LAUNCH_FAILED and reason not in queue.HOPELESS:
            return None
        remark = queue.QUEUE.remark(job_id)
        if reason == queue.LAUNCH_FAILED:
            return Obstacle("held", remark)
        return Obstacle("dependency" if reason == "DependencyNeverSatisfied" else "hopeless", remark)

    def release(self, job_id: str) -> None:
        queue.release(job_id)

    def withdraw(self, jobs: Iterable[str]) -> None:
        queue.cancel(jobs)

    def stop(self, cells: Sequence[Pair]) -> None:
        queue.cancel(_jobs(cells))
        for _, attempt in _unrecorded(cells):
            cell_processes.stop(None, attempt)

    def kill(self, cells: Sequence[Pair]) -> None:
        jobs = _jobs(cells)
        if jobs:
            queue.kill(jobs)
            patience_ends = time.monotonic() + KILL_S
            while queue.queued(jobs) and time.monotonic() < patience_ends:
                time.sleep(0.2)
        for _, attempt in _unrecorded(cells):
            cell_processes.kill(None, attempt)

    def out_of_reach(self, submission: Submission) -> str:
        return ""

    def end_of(self, job_id: str) -> JobEnd:
        word = queue.end_of(job_id)
        if word == queue.SILENT:
            raise NoAnswer(job_id)
        return _ENDS.get(word, JobEnd("other", word))

    def refusal(self, submission: Submission) -> str:
        return modules.refusal_in(submission.job_log)

    def peak_bytes(self, job_id: str) -> int | None:
        return queue.peak_bytes(job_id)

    def memory_kill(self, log_text: str) -> tuple[int, int] | None:
        reported = _OVER_LIMIT.findall(log_text)
        return (max(int(peak) for peak, _ in reported), int(reported[0][1])) if reported else None


def _place(job_id: str) -> Place:
    state = queue.QUEUE.state(job_id)
    if state is None:
        return "over"
    if state == queue.SILENT:
        return "unknown"
    return "waits" if state in _WAITS else "on a node"


def _jobs(cells: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(job for submission, _ in cells if submission is not None for job in submission.jobs))


def _unrecorded(cells: Sequence[Pair]) -> list[Pair]:
    """Cells whose job nobody could record: their processes are ended where they are on this host."""
    return [pair for pair in cells if pair[0] is None]
