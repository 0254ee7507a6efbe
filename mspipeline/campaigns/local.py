"""The scheduler that is none: cells run on this machine, a few at a time, while the campaign's process stays."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from mspipeline.campaigns import cell_processes, host_processes
from mspipeline.campaigns.attempt import AttemptRecord, read_attempt
from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.campaigns.run_commands import run_in_own_session
from mspipeline.campaigns.scheduler import JobEnd, JobRequest, Obstacle, Pair, Place, Scheduler
from mspipeline.campaigns.site import Partition, Site
from mspipeline.campaigns.submission import CellSubmission, Handle, Submission, attempt_before, write_submission
from mspipeline.errors import ConfigError, StorageError
from mspipeline.runs import utc_now

NO_LIMIT_MIN = 366 * 24 * 60
"""submitit needs a time limit."""


class Local(Scheduler):
    """This machine. It has no queue: a job is a process, and what the process table does not show is over."""

    title = "this machine"
    queues = False
    runs_here = True

    def validate(self, site: Site) -> None:
        if site.sbatch or any(each.sbatch for each in site.partitions.values()):
            raise ConfigError("sbatch options on a site with executor = 'local'; leave them out, nothing is submitted")
        if site.container != "none":
            raise ConfigError("a container needs executor = 'slurm'; local cells run in this environment")

    def limit(self, site: Site) -> float:
        return site.max_parallel or 1

    def memory_limit_gb(self, partition: Partition) -> float | None:
        return None

    def refuse_if_absent(self, what: str) -> None:
        """Nothing is needed."""

    def check(self, site: Site, backends: Sequence[str]) -> None:
        """Nothing can be wrong that its cells do not say themselves."""

    def findings(self, site: Site) -> list[Finding]:
        detail = "runs cells on this machine, one at a time unless it says otherwise"
        return [Finding(f"site {site.name}", "ok", detail)]

    def probe(self, site: Site, folder: Path) -> list[Finding]:
        return []

    def pack(self, partition: Partition) -> int:
        return 1

    def launcher(self, processes: int, partition: Partition) -> list[str]:
        return []

    def mpi_launcher(self, site: Site, ranks: int) -> list[str]:
        return []

    def script(self, site: Site, device: str, count: int, logs: Path, *, name: str, shape: JobShape) -> str | None:
        return None

    def submit(self, request: JobRequest) -> list[Handle]:
        partition = request.site.partition_for(request.device)[1]
        try:
            executor = submitit.AutoExecutor(
                request.logs, cluster="local", local_python=f"{shlex.quote(sys.executable)} -P"
            )
            executor.update_parameters(**parameters(request.name, partition))
            jobs = [
                executor.submit(run_in_own_session, _commands(cell), str(cell.cell_folder)) for cell in request.cells
            ]
        except (RuntimeError, FailedJobError, FailedSubmissionError) as error:
            problem = " ".join(str(error).split())
            raise ConfigError(
                f"site {request.site.name}: cannot submit {request.name} to local: {problem}; correct the site file"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{request.logs}: cannot be written ({error.strerror}); free some space or choose another folder"
            ) from error
        return [_recorded(request, cell, job) for cell, job in zip(request.cells, jobs, strict=True)]

    def answers(self) -> bool:
        return True

    def forget(self) -> None:
        """Nothing is remembered."""

    def queued(self, submission: Submission) -> bool:
        """A job of another host counts as running: nobody here can tell."""
        elsewhere = submission.host != socket.gethostname()
        return elsewhere or host_processes.find(submission.pid, submission.pid_created) is not None

    def place(self, submission: Submission, jobs: Sequence[str]) -> Place:
        return "on a node" if jobs and self.queued(submission) else "over"

    def place_of_attempt(self, attempt: AttemptRecord, submission: Submission | None, *, here: bool) -> Place:
        if attempt.exit_code is not None:
            return "over"
        if submission is not None:
            return self.place(submission, [attempt.job_id]) if attempt.job_id == submission.job_id else "over"
        return "over" if here else "unknown"

    def remark(self, job_id: str) -> str:
        return ""

    def stuck(self) -> bool:
        return False

    def obstacle(self, job_id: str) -> Obstacle | None:
        return None

    def release(self, job_id: str) -> None:
        """No job is ever held."""

    def withdraw(self, jobs: Iterable[str]) -> None:
        """No job ever waits."""

    def stop(self, cells: Sequence[Pair]) -> None:
        for submission, attempt in cells:
            cell_processes.stop(submission, attempt)

    def kill(self, cells: Sequence[Pair]) -> None:
        for submission, attempt in cells:
            cell_processes.kill(submission, attempt)

    def out_of_reach(self, submission: Submission) -> str:
        here = submission.host == socket.gethostname()
        return "" if here else f"runs on {submission.host}; cancel it there"

    def end_of(self, job_id: str) -> JobEnd:
        return JobEnd()

    def refusal(self, submission: Submission) -> str:
        return ""

    def peak_bytes(self, job_id: str) -> int | None:
        return None

    def memory_kill(self, log_text: str) -> tuple[int, int] | None:
        return None


def parameters(name: str, partition: Partition) -> dict[str, Any]:
    """What submitit's local executor is given for a job."""
    return {"name": name, "stderr_to_stdout": True, "timeout_min": partition.time_min or NO_LIMIT_MIN}


def _commands(cell: CellSubmission) -> list[list[str]]:
    """The command lines of a cell with this process's choice of GPUs, which submitit's local executor empties."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    start = ["env", "-u", "CUDA_VISIBLE_DEVICES"] if chosen is None else ["env", f"CUDA_VISIBLE_DEVICES={chosen}"]
    return [[*start, *line] for line in cell.commands]


def _recorded(request: JobRequest, cell: CellSubmission, job: Any) -> Handle:
    """The handle of a job that was submitted, recorded in its cell's folder. Asking it reaps the job's launcher."""
    pid = int(job.job_id)
    submission = Submission(
        executor=request.site.executor,
        job_id=job.job_id,
        host=socket.gethostname(),
        pid=pid,
        pid_created=host_processes.created(pid),
        logs=request.logs,
        log=job.paths.stdout,
        submitted_utc=utc_now(),
        earlier=cell.earlier,
        after_attempt=attempt_before(read_attempt(cell.cell_folder), job.job_id),
    )
    write_submission(cell.cell_folder, submission)
    return Handle(submission, lambda: bool(job.done(force_check=True)), job)
