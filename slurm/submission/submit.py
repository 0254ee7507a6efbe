"""Cells of one shape, handed to SLURM as one job array through submitit.

Whether a job is over is asked of SLURM's queue: submitit takes one that is requeued for over, because its first attempt
left a result, and takes a cancelled one for over only where the cluster has accounting.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.scheduler import JobRequest
from mspipeline.campaigns.submission import CellSubmission, Handle, Submission, attempt_before, write_submission
from mspipeline.containers.image_facts import commit_of, digest_of
from mspipeline.errors import ConfigError, StorageError
from mspipeline.runs import utc_now
from mspipeline.slurm.checks.cluster_facts import minutes
from mspipeline.slurm.on_node.element import Work, run_element
from mspipeline.slurm.on_node.node import NodeEnvironment
from mspipeline.slurm.programs import ask
from mspipeline.slurm.srun import outside_of_jobs
from mspipeline.slurm.submission import queue
from mspipeline.slurm.submission.parameters import parameters, python_words

ANSWER_S = 60.0


def submit_cells(request: JobRequest) -> list[Handle]:
    """Hand cells to SLURM as one job array, or one job; record each in its folder's submission.json.

    Raises ConfigError where SLURM does not take them or the site has no image for them, StorageError where the folder
    of logs cannot be written.
    """
    site, shape, logs = request.site, request.shape, request.logs
    partition_name, partition = site.partition_for(request.device)
    environment = node_environment(request).model_dump(mode="json")
    packs = [request.cells[start : start + shape.pack] for start in range(0, len(request.cells), shape.pack)]
    works = [[_work(cell, logs, alone=len(pack) == 1) for cell in pack] for pack in packs]
    try:
        # -P: a folder called `slurm` where the user stands must not hide this package.
        executor = submitit.SlurmExecutor(logs, python=python_words(shape))
        if partition.time_min is None:
            partition = partition.model_copy(update={"time_min": _time_of(partition_name)})
        executor.update_parameters(**parameters(site, request.name, partition_name, partition, len(packs), shape))
        with _outside_of_jobs():
            elements = executor.map_array(
                run_element, works, [environment] * len(packs), [shape.propagates_exit_code] * len(packs)
            )
    except (RuntimeError, FailedJobError, FailedSubmissionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(
            f"site {site.name}: cannot submit {request.name} to slurm: {problem}; correct the site file"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{logs}: cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
    queue.QUEUE.forget()
    jobs = [(job, work) for job, pack in zip(elements, works, strict=True) for work in pack]
    return [_recorded(request, cell, *each) for cell, each in zip(request.cells, jobs, strict=True)]


def node_environment(request: JobRequest) -> NodeEnvironment:
    """What the commands are given on a node, in the image of their backend where the site has images."""
    site = request.site
    if site.container == "none":
        return NodeEnvironment(scratch=site.scratch, tries=site.tries, on_host=request.on_host)
    if not request.backend:
        raise ConfigError(
            f"site {site.name}: container {site.container} but no image for {request.name}; add it to the site"
        )
    image = site.image_for(request.backend)
    return NodeEnvironment(
        container=site.container,
        image=image,
        image_digest=site.images[request.backend].digest or digest_of(site.container, image),
        image_commit=commit_of(site.container, image),
        gpu=request.gpu,
        folders=request.folders,
        read_only=request.read_only,
        binds=site.binds,
        scratch=site.scratch,
        pass_environment=site.pass_environment,
        on_host=request.on_host,
        tries=site.tries,
    )


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
    shown = ask(["scontrol", "show", "partition", "--oneliner", partition_name], timeout_s=ANSWER_S)
    if "Unable to contact" in shown.problem:
        raise RuntimeError(shown.problem)
    fields = dict(word.partition("=")[::2] for word in shown.output.split())
    default = fields.get("DefaultTime", "NONE")
    return minutes(fields.get("MaxTime", "UNLIMITED") if default == "NONE" else default) or 0


def _work(cell: CellSubmission, logs: Path, *, alone: bool) -> dict[str, Any]:
    """What a job is given of one of its cells, as plain data."""
    return Work(
        commands=tuple(tuple(line) for line in cell.commands),
        cell_folder=cell.cell_folder,
        launchers=tuple(tuple(words) for words in cell.launchers),
        log=None if alone else logs.absolute() / f"{cell.name}.log",
        needs_earlier=bool(cell.earlier),
    ).model_dump(mode="json")


def _recorded(request: JobRequest, cell: CellSubmission, job: Any, work: dict[str, Any]) -> Handle:
    """The handle of a job that was submitted, recorded in its cell's folder."""
    submission = Submission(
        executor=request.site.executor,
        job_id=job.job_id,
        host=socket.gethostname(),
        pid=None,
        pid_created=None,
        logs=request.logs,
        log=Path(work["log"] or job.paths.stdout),
        submitted_utc=utc_now(),
        earlier=cell.earlier,
        after_attempt=attempt_before(read_attempt(cell.cell_folder), job.job_id),
    )
    write_submission(cell.cell_folder, submission)
    return Handle(submission, lambda: not queue.queued(submission.jobs), job)
