"""The jobs around a campaign's cells on SLURM: the preparation that they wait for, the tables that are made after them.

Each has a folder like a cell's, CAMPAIGN/prepare and CAMPAIGN/collect, with submission.json, cell.json and lock.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.ending import INTERRUPTED_CODES
from mspipeline.campaigns.progress import last_lines
from mspipeline.campaigns.site import Site
from mspipeline.config import CollectJob, PrepareJob, Strict
from mspipeline.errors import ConfigError
from mspipeline.files import write_json
from mspipeline.slurm import modules
from mspipeline.slurm.on_node.node import Surroundings
from mspipeline.slurm.submission import queue, submit
from mspipeline.slurm.submission.shape import Shape
from mspipeline.slurm.submission.submit import Order, Submission, read_submission

State = Literal["pending", "running", "done", "interrupted", "failed"]
COLLECT_ON_HOST = (0,)
"""Commands of `collect_order` that run outside of an image, which has no squeue."""

TIMED_OUT = "TIMEOUT: its time limit came before it was done; raise time_min of its partition in the site file"


@dataclass(frozen=True)
class StepState:
    """How far one of these jobs is. message: its last words where it did not go well."""

    name: str
    state: State
    message: str = ""
    exit_code: int | None = None
    log: Path | None = None


def step_state(campaign_folder: Path, name: str) -> StepState:
    """The state of `prepare` or `collect` from its files and the queue; `pending` where it was never submitted."""
    folder = campaign_folder / name
    submission, attempt = read_submission(folder), read_attempt(folder)
    if submission is None:
        return StepState(name, "pending")
    log = submission.log
    if submit.queued(submission):
        return StepState(name, "running", log=log)
    refused = modules.refusal_in(log)
    if refused:
        return StepState(name, "failed", refused, modules.CODE, log)
    own = attempt if attempt is not None and attempt.job_id == submission.job_id else None
    if own is not None and own.exit_code == 0:
        return StepState(name, "done", exit_code=0, log=log)
    if queue.end_of(submission.job_id) == "TIMEOUT":
        return StepState(name, "interrupted", TIMED_OUT, log=log)
    if own is None or own.exit_code is None:
        return StepState(name, "interrupted", "its job was cancelled or lost", log=log)
    said = ": ".join([f"code {own.exit_code}", *last_lines(log, 1)])
    state: State = "interrupted" if own.exit_code in INTERRUPTED_CODES else "failed"
    return StepState(name, state, said, own.exit_code, log)


def prepare_shape(ranks: int) -> Shape:
    """What the preparation asks for: a core for each rank of MPI."""
    return Shape(tasks=ranks, cpus=1, tells_end=True)


def collect_shape(jobs: Sequence[str] = ()) -> Shape:
    """What the tables ask for. jobs: those of the cells, all over when they begin, however they ended."""
    bases = dict.fromkeys(job.partition("_")[0] for job in jobs)
    return Shape(cpus=1, after=f"afterany:{':'.join(bases)}" if bases else "", tells_end=True)


def prepare_order(folder: Path, job: PrepareJob, site: Site, ranks: int, python: str) -> Order:
    """The preparation, under MPI where it has several ranks.

    Raises ConfigError where the site's container keeps them from each other.
    """
    if ranks > 1 and site.container == "docker":
        raise ConfigError(
            f"site {site.name}: prepare.ranks = {ranks}, but Docker's daemon starts containers outside of the job, "
            "where MPI does not reach them; set ranks = 1 in the sweep, or use Podman or Apptainer"
        )
    config = _config(folder, "prepare", job)
    command = [python, "-P", "-m", "mspipeline.jobs", "prepare", str(config)]
    return Order("prepare", [command], folder / "prepare", launchers=[site.mpi_command(ranks) if ranks > 1 else []])


def collect_order(folder: Path, python: str) -> Order:
    """The tables of all cells, those that never began among them.

    Its first command asks SLURM what became of the cells, and so runs on the host (see COLLECT_ON_HOST).
    """
    config = _config(folder, "collect", CollectJob(runs=folder, output=folder / "tables"))
    gaps = [sys.executable, "-P", "-m", "mspipeline.campaigns.gaps", str(folder)]
    return Order("collect", [gaps, [python, "-P", "-m", "mspipeline.jobs", "collect", str(config)]], folder / "collect")


def hand_over(site: Site, folder: Path, order: Order, surroundings: Surroundings, shape: Shape) -> Submission:
    """Submit one of these jobs to where there is a CPU, else to any partition; one that still waits makes room."""
    earlier = read_submission(order.cell_folder)
    if earlier is not None and submit.queued(earlier):
        queue.cancel(earlier.jobs)
    logs = folder / "logs" / order.name
    number = len(list(logs.iterdir())) if logs.exists() else 0
    (handle,) = submit.submit_together(
        site, site.device_of_steps, [order], logs / str(number), name=order.name, surroundings=surroundings, shape=shape
    )
    return handle.submission


def stop(campaign_folder: Path) -> None:
    """Take these jobs out of the queue; asking again does no harm."""
    there = [read_submission(campaign_folder / name) for name in ("prepare", "collect")]
    queue.cancel([job for each in there if each is not None and submit.queued(each) for job in each.jobs])


def python_of(site: Site) -> str:
    """The interpreter that a job calls."""
    return sys.executable if site.container == "none" else "python"


def _config(folder: Path, name: str, job: Strict) -> Path:
    path = folder / name / "jobs" / f"{name}.json"
    write_json(path, job.model_dump(mode="json"))
    return path
