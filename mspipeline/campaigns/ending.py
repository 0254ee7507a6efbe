"""How a cell's job ended, found out by the campaign that followed it, and whether it is run again.

CELL/ending.json keeps what the attempt could not say itself, so that any terminal tells it. Only the campaign writes
it, and only its word on the attempt that is the latest counts.

    how the job ended                   what follows
    memory ran out                      failed: with the peak and a better mem_gb
    the disk is full                    failed: room must be made first
    cancelled by somebody               left as it is
    preempted, put out by its time      run again
    killed, its node dead               run again, unless that was so `tries` times in a row without getting further
"""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from mspipeline.campaigns.attempt import KILLED, AttemptRecord, newest_state, tries_failed
from mspipeline.campaigns.memory import ran_out_of_memory
from mspipeline.campaigns.scheduler import JobEnd, Scheduler
from mspipeline.campaigns.submission import Submission
from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, Interrupted, Preempted, RunFolderError, StorageError
from mspipeline.files import read_json, write_json

STOP_SIGNALS = (1, 2, 10, 12, 15)  # HUP INT USR1 USR2 TERM: somebody asked, nothing went wrong
INTERRUPTED_CODES = (Preempted.exit_code, Interrupted.exit_code, *(128 + number for number in STOP_SIGNALS))
_TAIL_BYTES = 65536


class Ending(Strict):
    """`ending.json`. attempt: the one it is about; null where the job ended before it began.

    again: whether the campaign runs the cell again by itself. tries: attempts that died in a row without getting
    further.
    """

    schema_version: Literal[1] = 1
    job_id: str
    attempt: int | None
    state: Literal["failed", "interrupted"]
    message: str
    again: bool
    tries: int = 0


def ending_path(cell_folder: Path) -> Path:
    """Where a cell's `ending.json` is."""
    return cell_folder / "ending.json"


def read_ending(cell_folder: Path, submission: Submission | None, attempt: AttemptRecord | None) -> Ending | None:
    """What the campaign found out about the end of this very attempt; None where it did not.

    Raises RunFolderError where the file is not readable.
    """
    path = ending_path(cell_folder)
    if submission is None or not path.exists():
        return None
    try:
        document = read_json(path, what="record of a cell's end", remedy="remove it and resume the campaign")
        ending = parse(document, Ending, where=str(path))
    except (DataError, ConfigError) as error:
        raise RunFolderError(str(error)) from error
    number = None if attempt is None else attempt.attempt
    return ending if (ending.job_id, ending.attempt) == (submission.job_id, number) else None


def write_ending(cell_folder: Path, ending: Ending) -> None:
    """Keep it, if the disk has room; where it has none, this run of the campaign alone knows."""
    with suppress(StorageError):
        write_json(ending_path(cell_folder), ending.model_dump(mode="json"))


def ending_of(
    cell_folder: Path,
    submission: Submission,
    attempt: AttemptRecord | None,
    scheduler: Scheduler,
    *,
    tries_allowed: int,
    mem_gb: float | None,
    unbegun: int = 0,
) -> Ending | None:
    """What to report and do about a cell whose jobs are over; None where its own files tell enough.

    tries_allowed: how many times in a row it may die without progress. mem_gb: memory at which it is ended, None where
    nothing ends it. unbegun: jobs of this cell in a row that ended before they began, this one not counted.
    Raises NoAnswer where the scheduler would have to tell and does not answer.
    """
    number = None if attempt is None else attempt.attempt

    def ending(state: Literal["failed", "interrupted"], message: str, *, again: bool = False, tries: int = 0) -> Ending:
        return Ending(
            job_id=submission.job_id, attempt=number, state=state, message=message, again=again, tries=tries
        )  # fmt: skip

    refused = scheduler.refusal(submission)
    if refused:
        return ending("failed", refused)
    if attempt is None or attempt.job_id not in submission.jobs:
        if _full(cell_folder):
            return ending("failed", f"no space: {cell_folder} cannot be written; free some")
        end = scheduler.end_of(submission.job_id)
        if end.reason in ("unknown", "cancelled"):
            return None
        if unbegun + 1 >= tries_allowed:
            return ending(
                "failed", f"{unbegun + 1} jobs ended before they began ({end.word}); see its log", tries=unbegun + 1
            )
        return ending("interrupted", f"its job ended before it began ({end.word})", again=True, tries=unbegun + 1)
    code = attempt.exit_code
    log_text = _tail(attempt.log, attempt.log_start)
    ran_out = ran_out_of_memory(cell_folder, attempt, scheduler, mem_gb, log_text)
    if ran_out:
        return ending("failed", ran_out)
    if code in INTERRUPTED_CODES:
        # SLURM puts such a job back itself, unless the cluster's PreemptMode is CANCEL or a requeue was refused.
        end = scheduler.end_of(attempt.job_id)
        if end.reason in ("preempted", "time limit", "node failed"):
            return ending("interrupted", "preempted, its state saved", again=True)
        # Warned of its time limit, and the scheduler did not answer when the job asked to be put back.
        warned = attempt.asked is not None and attempt.asked == scheduler.warning_signal
        if warned and newest_state(cell_folder) != attempt.state_saved and end.reason != "cancelled":
            return ending("interrupted", "its time ended, its state saved", again=True)
        return None
    if code not in (None, KILLED):
        return None
    if _full(cell_folder):
        return ending("failed", f"no space: {cell_folder} cannot be written; free some")
    end = scheduler.end_of(attempt.job_id)
    if end.reason == "cancelled":
        return ending("interrupted", "cancelled before its state was saved")
    tries = tries_failed(attempt, newest_state(cell_folder))
    why = _cause(end, attempt)
    if tries >= tries_allowed:
        return ending("failed", f"died {tries} times without getting further; the last time: {why}", tries=tries)
    count = f" (try {tries} of {tries_allowed})" if tries else ""
    return ending("interrupted", f"{why}{count}; it is run again", again=True, tries=tries)


def _cause(end: JobEnd, attempt: AttemptRecord) -> str:
    """Why an attempt died."""
    if end.reason == "node failed":
        return f"its node {attempt.node or attempt.host} failed"
    if end.reason == "time limit":
        return f"{end.word}: its time limit came before its state was saved: raise time_min or warn_s in the site file"
    if attempt.asked is not None:
        return f"killed after {attempt.asked}, before its state was saved"
    return f"killed on {attempt.node or attempt.host} (SIGKILL)"


def _tail(log: Path, start: int) -> str:
    """The end of what an attempt wrote to its log; empty where there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(start, log.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _full(folder: Path) -> bool:
    """Whether nothing more can be written there, tried from here."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(os.urandom(4096))
            probe.flush()
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False
