"""The jobs before and after a campaign's cells: the preparation that they wait for, the tables that follow them.

Each has a folder like a cell's, CAMPAIGN/prepare and CAMPAIGN/collect, with submission.json, cell.json and lock. Where
the scheduler has no queue, the command line does the same work itself, and neither folder is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.cell_state import CellState, last_lines
from mspipeline.campaigns.ending import INTERRUPTED_CODES
from mspipeline.campaigns.job_shape import After, JobShape
from mspipeline.campaigns.scheduler import NoAnswer, Scheduler
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.submission import CellSubmission, Submission, read_submission
from mspipeline.config import CollectJob, PrepareJob, Strict
from mspipeline.errors import ConfigError, Interrupted, TableError
from mspipeline.files import write_json

State = Literal["pending", "running", "done", "interrupted", "failed"]
NAMES = ("prepare", "collect")
COLLECT_ON_HOST = (0,)
"""Commands of `collect_submission` that run outside of an image, which cannot ask the scheduler."""
TIMED_OUT = "its time limit came before it was done; raise time_min of its partition in the site file"


@dataclass(frozen=True)
class StepState:
    """How far one of these jobs is. message: its last words where it did not go well."""

    name: str
    state: State
    message: str = ""
    exit_code: int | None = None
    log: Path | None = None


def step_state(campaign_folder: Path, name: str, scheduler: Scheduler) -> StepState:
    """The state of `prepare` or `collect` from its files and the queue; `pending` where it was never submitted."""
    folder = campaign_folder / name
    submission, attempt = read_submission(folder), read_attempt(folder)
    if submission is None:
        return StepState(name, "pending")
    log = submission.log
    if scheduler.queued(submission):
        return StepState(name, "running", log=log)
    refused = scheduler.refusal(submission)
    if refused:
        return StepState(name, "failed", refused, ConfigError.exit_code, log)
    own = attempt if attempt is not None and attempt.job_id == submission.job_id else None
    if own is not None and own.exit_code == 0:
        return StepState(name, "done", exit_code=0, log=log)
    timed_out = _timed_out(submission, scheduler)
    if timed_out:
        return StepState(name, "interrupted", timed_out, log=log)
    if own is None or own.exit_code is None:
        return StepState(name, "interrupted", "its job was cancelled or lost", log=log)
    message = ": ".join([f"code {own.exit_code}", *last_lines(log, 1)])
    state: State = "interrupted" if own.exit_code in INTERRUPTED_CODES else "failed"
    return StepState(name, state, message, own.exit_code, log)


def _timed_out(submission: Submission, scheduler: Scheduler) -> str:
    """The message for a job that its time limit ended; empty for another, and where nobody can tell."""
    try:
        end = scheduler.end_of(submission.job_id)
    except NoAnswer:
        return ""
    return f"{end.word}: {TIMED_OUT}" if end.reason == "time limit" else ""


def explained(states: list[CellState], preparation: StepState | None) -> list[CellState]:
    """The states of cells with what they wait for, or why they never began, where that is the preparation.

    preparation: None where the cells need none.
    """
    if preparation is None or preparation.state == "pending":
        return states
    found = []
    for each in states:
        if preparation.state == "running" and each.waits:
            # What the message says besides: that the scheduler does not answer, that the job is held.
            _, mark, rest = each.message.partition("; ")
            found.append(replace(each, message=f"waiting for the preparation{mark}{rest}"))
        elif preparation.state in ("failed", "interrupted") and each.state != "running" and not each.node:
            found.append(replace(each, message=f"not prepared: {preparation.message}; log: {preparation.log}"))
        else:
            found.append(each)
    return found


def wait_for_tables(campaign_folder: Path, scheduler: Scheduler, poll_s: float = 1.0) -> None:
    """Stay until `collect` is over. Raises TableError where it went wrong, Interrupted on Ctrl-C."""
    try:
        while (tables := step_state(campaign_folder, "collect", scheduler)).state == "running":
            time.sleep(poll_s)
    except KeyboardInterrupt:
        raise Interrupted(f"{campaign_folder}: all cells are over; their tables are being written still") from None
    if tables.state in ("failed", "interrupted"):
        raise TableError(
            f"{campaign_folder}: no tables ({tables.message}; log: {tables.log}); "
            f"make them with `mspipeline collect {campaign_folder}`"
        )


def prepare_shape(ranks: int) -> JobShape:
    """What the preparation asks for: a core for each rank of MPI."""
    return JobShape(tasks=ranks, cpus=1, propagates_exit_code=True)


def collect_shape(jobs: Sequence[str] = ()) -> JobShape:
    """What the tables ask for. jobs: those of the cells, which have to be over, however they ended."""
    return JobShape(cpus=1, after=After("ended", tuple(jobs)) if jobs else None, propagates_exit_code=True)


def prepare_submission(
    folder: Path, job: PrepareJob, site: Site, scheduler: Scheduler, ranks: int, python: str
) -> CellSubmission:
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
    launcher = scheduler.mpi_launcher(site, ranks) if ranks > 1 else []
    return CellSubmission("prepare", [command], folder / "prepare", launchers=[launcher])


def collect_submission(folder: Path, python: str) -> CellSubmission:
    """The tables of all cells, those that never began among them.

    Its first command asks the scheduler what became of the cells, and so runs on the host (see COLLECT_ON_HOST).
    """
    config = _config(folder, "collect", CollectJob(runs=folder, output=folder / "tables"))
    gaps = [sys.executable, "-P", "-m", "mspipeline.campaigns.gaps", str(folder)]
    tables = [python, "-P", "-m", "mspipeline.jobs", "collect", str(config)]
    return CellSubmission("collect", [gaps, tables], folder / "collect")


def stop(campaign_folder: Path, scheduler: Scheduler) -> None:
    """Take these jobs out of the queue; asking again does no harm."""
    there = [read_submission(campaign_folder / name) for name in NAMES]
    scheduler.withdraw([job for each in there if each is not None and scheduler.queued(each) for job in each.jobs])


def python_of(site: Site) -> str:
    """The interpreter that a job calls."""
    return sys.executable if site.container == "none" else "python"


def _config(folder: Path, name: str, job: Strict) -> Path:
    path = folder / name / "jobs" / f"{name}.json"
    write_json(path, job.model_dump(mode="json"))
    return path
