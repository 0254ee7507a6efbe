"""A cell's job, handed to a site through submitit: submitted, looked at, stopped.

submitit's local executor starts a launcher, and the launcher starts the job:

    campaign -> launcher (submitit.local) -> job (run_commands) -> command (the supervisor) -> the work itself

Its own `cancel` sends SIGINT to the launcher, which kills the job a second later and so leaves the supervisor an orphan
in the middle of a checkpoint. Hence SIGINT stays blocked in the launcher, and a job is stopped by TERM.

On SLURM, cells of one shape go as one job array. Whether a job is over is asked of SLURM's queue: submitit takes one
that is requeued for over, because its first attempt left a result, and takes a cancelled one for over only where the
cluster has accounting.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths

from mspipeline.campaigns import processes
from mspipeline.campaigns.attempt import AttemptRecord, read_attempt, run_commands, utc_now
from mspipeline.campaigns.site import Site
from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError, StorageError
from mspipeline.files import read_json, write_json
from mspipeline.parallel.lock import held
from mspipeline.slurm.checks.cluster_facts import minutes
from mspipeline.slurm.on_node.element import Work, run_element
from mspipeline.slurm.on_node.node import Surroundings
from mspipeline.slurm.program_environment import program_environment
from mspipeline.slurm.srun import outside_of_jobs
from mspipeline.slurm.submission import queue
from mspipeline.slurm.submission.shape import PLAIN, Shape, parameters, python_words


class Submission(Strict):
    """`submission.json` of a cell: the job it was last handed to. Written by the campaign alone.

    pid: of submitit's launcher on `host`; null on SLURM. earlier: jobs of the cell's steps before this one.
    after_attempt: the cell's latest attempt when it was handed over; null where it had none.
    """

    schema_version: int = 1
    executor: Literal["local", "slurm"]
    job_id: str
    host: str
    pid: int | None
    pid_created: float | None
    logs: Path
    log: Path
    submitted_utc: str
    after_attempt: int | None = None
    earlier: tuple[str, ...] = ()

    @property
    def jobs(self) -> tuple[str, ...]:
        """Every job of the cell, in the order in which they run."""
        return (*self.earlier, self.job_id)

    @property
    def job_log(self) -> Path:
        """The log of the job itself, which cells that share it have besides their own."""
        return Path(JobPaths(self.logs, self.job_id, 0).stdout)


@dataclass(frozen=True)
class Order:
    """One cell to be handed over: its name, its command lines and its run folder.

    launchers: of each command, what starts its processes. earlier: jobs of its steps before these.
    """

    name: str
    commands: Sequence[Sequence[str]]
    cell_folder: Path
    launchers: Sequence[Sequence[str]] = ()
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Handle:
    """A job that this process submitted."""

    submission: Submission
    job: Any

    def ended(self) -> bool:
        """Whether the job is over; asks the scheduler, and reaps the launcher of a local job."""
        if self.submission.executor == "slurm":
            return not queued(self.submission)
        return bool(self.job.done(force_check=True))


Pair = tuple[Submission | None, AttemptRecord | None]
"""The job that a cell was last handed to, and its latest attempt."""


@contextmanager
def sigint_held_back() -> Iterator[None]:
    """Keep Ctrl-C waiting until the block is left, and away from every process started inside it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def submit(
    site: Site, device: str, name: str, commands: Sequence[Sequence[str]], cell_folder: Path, logs: Path
) -> Handle:
    """Hand one cell to the site; see submit_together."""
    return submit_together(site, device, [Order(name, commands, cell_folder)], logs, name=name)[0]


def submit_together(
    site: Site,
    device: str,
    orders: Sequence[Order],
    logs: Path,
    *,
    name: str,
    surroundings: Surroundings | None = None,
    shape: Shape = PLAIN,
) -> list[Handle]:
    """Hand cells of one shape to the site, to SLURM as one job array; record each in its folder's submission.json.

    device: of all the cells; chooses the partition. name: of the array. logs: a folder of this submission's own.
    surroundings: what the cells see on a node of SLURM; bare where None. Call inside `sigint_held_back`.
    Raises ConfigError where the site cannot take the jobs, StorageError where `logs` cannot be written.
    """
    partition_name, partition = site.partition_for(device)
    if surroundings is None and site.container != "none":
        raise ConfigError(f"site {site.name}: container {site.container} but no image for {name}; add it to the site")
    packs = [orders[start : start + shape.pack] for start in range(0, len(orders), shape.pack)]
    try:
        executor = _executor(site, logs, shape)
        if site.executor == "slurm" and partition.time_min is None:
            partition = partition.model_copy(update={"time_min": _time_of(partition_name)})
        executor.update_parameters(**parameters(site, name, partition_name, partition, len(packs), shape))
        if site.executor == "local":
            jobs = [executor.submit(run_commands, _with_cuda(order), str(order.cell_folder)) for order in orders]
            logs_of = [job.paths.stdout for job in jobs]
        else:
            works = [[_work(order, logs, alone=len(pack) == 1) for order in pack] for pack in packs]
            seen = (surroundings or Surroundings(scratch=site.scratch)).model_dump(mode="json")
            with _outside_of_jobs():
                elements = executor.map_array(run_element, works, [seen] * len(packs), [shape.tells_end] * len(packs))
            jobs = [job for job, pack in zip(elements, packs, strict=True) for _ in pack]
            every = [work for pack in works for work in pack]
            logs_of = [Path(work["log"] or job.paths.stdout) for work, job in zip(every, jobs, strict=True)]
    except (RuntimeError, FailedJobError, FailedSubmissionError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"site {site.name}: cannot submit {name} to {site.executor}: {said}; correct the site file"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{logs}: cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
    queue.QUEUE.forget()
    return [_recorded(site, *each, logs) for each in zip(orders, jobs, logs_of, strict=True)]


def _executor(site: Site, logs: Path, shape: Shape) -> Any:
    """submitit's, for this site. -P: a folder called `slurm` where the user stands must not hide this package."""
    if site.executor == "slurm":
        return submitit.SlurmExecutor(logs, python=python_words(shape))
    return submitit.AutoExecutor(logs, cluster="local", local_python=python_words(shape))


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """`outside_of_jobs` for submitit, which starts sbatch with this process's environment."""
    before = dict(os.environ)
    kept = outside_of_jobs(before)
    for name in before.keys() - kept.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def _time_of(partition_name: str) -> int:
    """The minutes that a partition gives a job that names none; 0, which is no limit, where it has none.

    submitit cannot leave the limit open: it would ask for 5 minutes. Raises RuntimeError where SLURM does not answer.
    """
    asked = ["scontrol", "show", "partition", "--oneliner", partition_name]
    shown = subprocess.run(
        asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=program_environment()
    )
    if shown.returncode and "Unable to contact" in shown.stderr:
        raise RuntimeError(shown.stderr)
    fields = dict(word.partition("=")[::2] for word in shown.stdout.split())
    default = fields.get("DefaultTime", "NONE")
    return minutes(fields.get("MaxTime", "UNLIMITED") if default == "NONE" else default) or 0


def _with_cuda(order: Order) -> list[list[str]]:
    """The command lines of a local cell; several processes of one are started by the job itself."""
    return [[*_cuda_as_here(), *line] for line in order.commands]


def _work(order: Order, logs: Path, *, alone: bool) -> dict[str, Any]:
    """What a job is told of one of its cells, as plain data."""
    return Work(
        commands=tuple(tuple(line) for line in order.commands),
        cell_folder=order.cell_folder,
        launchers=tuple(tuple(words) for words in order.launchers),
        log=None if alone else logs.absolute() / f"{order.name}.log",
        needs_earlier=bool(order.earlier),
    ).model_dump(mode="json")


def _recorded(site: Site, order: Order, job: Any, log: Path, logs: Path) -> Handle:
    """The handle of a job that was submitted, once its cell's folder says so."""
    pid = int(job.job_id) if site.executor == "local" else None
    latest = read_attempt(order.cell_folder)  # which may be this job's already
    submission = Submission(
        executor=site.executor,
        job_id=job.job_id,
        host=socket.gethostname(),
        pid=pid,
        pid_created=processes.created(pid),
        logs=logs,
        log=log,
        submitted_utc=utc_now(),
        earlier=order.earlier,
        after_attempt=None if latest is None else latest.attempt - (latest.job_id == job.job_id),
    )
    write_json(submission_path(order.cell_folder), submission.model_dump(mode="json"))
    return Handle(submission, job)


def submission_path(cell_folder: Path) -> Path:
    """Where a cell's `submission.json` is."""
    return cell_folder / "submission.json"


def read_submission(cell_folder: Path) -> Submission | None:
    """The job a cell was last handed to; None where it never was. Raises RunFolderError where it is not readable."""
    path = submission_path(cell_folder)
    if not path.exists():
        return None
    try:
        document = read_json(path, what="record of a cell's job", remedy="remove it and resume the campaign")
        return parse(document, Submission, where=str(path))
    except (DataError, ConfigError) as error:
        raise RunFolderError(str(error)) from error


def begun(submission: Submission, attempt: AttemptRecord | None) -> bool:
    """Whether a cell's latest attempt is of this job, or of a later one that nobody could record.

    Told by job and by counting, for the two hosts that wrote of them may have clocks that differ.
    """
    if attempt is None:
        return False
    before = -1 if submission.after_attempt is None else submission.after_attempt
    return attempt.job_id in submission.jobs or attempt.attempt > before


def queued(submission: Submission) -> bool:
    """Whether the job is still waiting or running. A local job of another host counts as such: none can tell."""
    if submission.executor == "slurm":
        return any(queue.QUEUE.state(job) is not None for job in submission.jobs)
    return submission.host != socket.gethostname() or processes.find(submission.pid, submission.pid_created) is not None


def running(attempt: AttemptRecord, submission: Submission | None, cell_folder: Path) -> bool:
    """Whether an attempt still lives: by its lock on this host, by its job elsewhere."""
    if attempt.exit_code is not None:
        return False
    if attempt.host == socket.gethostname():
        return held(cell_folder / "lock")
    return submission is None or queued(submission)


def stop(submission: Submission | None, attempt: AttemptRecord | None) -> None:
    """Ask a cell to end in order: its state saved, its process tree gone. Asking again does no harm."""
    if submission is not None and submission.executor == "slurm":
        queue.cancel(submission.jobs)
        return
    alive = _processes(submission, attempt)
    leaders = [process for process in alive if attempt is not None and process.pid == attempt.pid]
    launchers = [process for process in alive if submission is not None and process.pid == submission.pid]
    tops = [process for process in alive if processes.parent(process) not in {other.pid for other in alive}]
    for process in leaders or launchers or tops:
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def kill(submission: Submission | None, attempt: AttemptRecord | None) -> None:
    """End a cell's processes at once; what was not on disk is lost."""
    if submission is not None and submission.executor == "slurm":
        kill_all([(submission, attempt)])
        return
    patience_ends = time.monotonic() + 5
    while (alive := _processes(submission, attempt)) and time.monotonic() < patience_ends:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=0.2)


def stop_all(jobs: Sequence[Pair]) -> None:
    """`stop` for many cells: those on SLURM by one call."""
    queue.cancel(_on_slurm(jobs))
    for submission, attempt in _here(jobs):
        stop(submission, attempt)


def kill_all(jobs: Sequence[Pair]) -> None:
    """`kill` for many cells: those on SLURM by one call."""
    on_slurm = _on_slurm(jobs)
    if on_slurm:
        queue.kill(on_slurm)
        patience_ends = time.monotonic() + 5
        while any(queue.QUEUE.state(job) is not None for job in on_slurm) and time.monotonic() < patience_ends:
            time.sleep(0.2)
    for submission, attempt in _here(jobs):
        kill(submission, attempt)


def _on_slurm(jobs: Sequence[Pair]) -> list[str]:
    every = [pair[0] for pair in jobs if pair[0] is not None and pair[0].executor == "slurm"]
    return list(dict.fromkeys(job for submission in every for job in submission.jobs))


def _here(jobs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in jobs if pair[0] is None or pair[0].executor == "local"]


def _processes(submission: Submission | None, attempt: AttemptRecord | None) -> list[psutil.Process]:
    """Every process of a local cell on this host: launcher, job, the members of the job's session, all descendants."""
    here = socket.gethostname()
    found: list[psutil.Process] = []
    if submission is not None and submission.host == here:
        found.extend(processes.tree(submission.pid, submission.pid_created))
    if attempt is not None and attempt.host == here and attempt.exit_code is None:
        found.extend(processes.session(attempt.pid, attempt.pid_created))
    return list({process.pid: process for process in found}.values())


def _cuda_as_here() -> list[str]:
    """Start of a command line that keeps this process's choice of GPUs, which submitit's local executor empties."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ["env", "-u", "CUDA_VISIBLE_DEVICES"] if chosen is None else ["env", f"CUDA_VISIBLE_DEVICES={chosen}"]
