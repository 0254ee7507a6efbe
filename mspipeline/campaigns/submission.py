"""A cell that was handed over as a job: `submission.json`, and what the process that submitted it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from submitit.core.utils import JobPaths

from mspipeline.campaigns.attempt import AttemptRecord
from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, RunFolderError
from mspipeline.files import read_json, write_json


class Submission(Strict):
    """`submission.json` of a cell: the job it was last handed to. Written by the campaign alone.

    executor: of its site. pid: of a local job's launcher on `host`; null elsewhere. earlier: jobs of the cell's steps
    before this one. after_attempt: the cell's latest attempt when it was handed over; null where it had none.
    """

    schema_version: Literal[1] = 1
    executor: str
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
class CellSubmission:
    """One cell to be handed over: its name, its command lines and its run folder.

    launchers: for each command, what starts its processes. earlier: jobs of its steps before these.
    """

    name: str
    commands: Sequence[Sequence[str]]
    cell_folder: Path
    launchers: Sequence[Sequence[str]] = ()
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Handle:
    """A job that this process submitted. ended: asks the scheduler whether it is over. job: submitit's own."""

    submission: Submission
    ended: Callable[[], bool]
    job: object = None


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


def write_submission(cell_folder: Path, submission: Submission) -> None:
    """Record the job that a cell was handed to."""
    write_json(submission_path(cell_folder), submission.model_dump(mode="json"))


def attempt_before(latest: AttemptRecord | None, job_id: str) -> int | None:
    """Number of a cell's attempt before that of the job just submitted, which may have begun already."""
    return None if latest is None else latest.attempt - (latest.job_id == job_id)


def begun(submission: Submission, attempt: AttemptRecord | None) -> bool:
    """Whether a cell's latest attempt is of this job, or of a later one that nobody could record.

    Told by job and by counting, because the two hosts that wrote of them may have clocks that differ.
    """
    if attempt is None:
        return False
    before = -1 if submission.after_attempt is None else submission.after_attempt
    return attempt.job_id in submission.jobs or attempt.attempt > before
