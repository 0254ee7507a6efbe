"""The state of a cell, from its files, its lock and the scheduler's queue: the same on any terminal.

The files say what attempts left behind, and a killed attempt leaves nothing. So the queue counts for more: a cell whose
job waits again is waiting, whatever its last attempt wrote.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mspipeline.campaigns.attempt import KILLED, AttemptRecord
from mspipeline.campaigns.cell_files import CellFiles, read_files
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.ending import INTERRUPTED_CODES
from mspipeline.campaigns.scheduler import Place, Scheduler
from mspipeline.campaigns.submission import Submission, begun
from mspipeline.errors import BackendError, RunFolderError, StorageError
from mspipeline.parallel.lock import held
from mspipeline.runs import RunPaths

State = Literal["pending", "running", "done", "interrupted", "failed", "absent"]
"""absent: its backend is not installed where it ran, or cannot realise its network; a gap in the comparison."""
STARTING = "starting"
WAITING = "waiting"
COMES_BACK = f"{WAITING} to continue"  # preempted, requeued, or warned of its time limit
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class CellState:
    """One row of the live table. Unknown values are None.

    attempt: counted from 0, so it is also how often the cell was started again. node: where that attempt is or was.
    epoch, epochs: finished and asked for. train_dice, validation_dice: of the last finished epoch. train_s: what the
    finished epochs took. eta_s: seconds of training still to come. message: what it does now, or its last words.
    exit_code, log: of the last attempt. warning: what is wrong with a training that goes on all the same.
    """

    id: str
    state: State
    message: str
    epochs: int
    epoch: int = 0
    train_dice: float | None = None
    validation_dice: float | None = None
    images_per_second: float | None = None
    train_s: float | None = None
    eta_s: float | None = None
    attempt: int | None = None
    restarts: int = 0
    node: str | None = None
    exit_code: int | None = None
    log: Path | None = None
    warning: str = ""

    @property
    def waits(self) -> bool:
        """Whether its job is in the queue and not on a node; `running` it is all the same: it needs nobody."""
        return self.state == "running" and self.message.startswith((STARTING, WAITING))


@dataclass(frozen=True, slots=True)
class Liveness:
    """What no file says of a cell. locked: whether its attempt holds the lock, as far as this host can see.

    own: where the attempt's job is. later: where a job is that is to go on with the cell after that one.
    """

    locked: bool
    own: Place
    later: Place


def cell_state(cell: Cell, scheduler: Scheduler) -> CellState:
    """The state of one cell now; one whose own files cannot be read is `failed`, with the reason as its message."""
    try:
        files = read_files(cell)
        found = liveness(cell, files, scheduler)
        if found is not None:
            files = read_files(cell)  # again: what ended since the first look has left its last word
    except RunFolderError as error:
        return unreadable(cell, error)
    return state_of(cell, files, found, scheduler)


def unreadable(cell: Cell, error: RunFolderError) -> CellState:
    """The state of a cell whose files cannot be read."""
    return CellState(cell.id, "failed", message=str(error), epochs=cell.train.training.epochs)


def liveness(cell: Cell, files: CellFiles, scheduler: Scheduler) -> Liveness | None:
    """What the lock and the scheduler say of a cell; None where its files alone make its state."""
    attempt, submission = files.attempt, files.submission
    if files.done or (attempt is None and submission is None):
        return None
    own: Place = "over"
    jobs = [] if submission is None else list(submission.jobs)
    locked = False
    if attempt is not None:
        here = attempt.host == socket.gethostname()
        locked = here and attempt.exit_code is None and held(cell.train.run_folder / "lock")
        own = scheduler.place_of_attempt(attempt, submission, here=here)
        if attempt.job_id in jobs:
            jobs = jobs[jobs.index(attempt.job_id) + 1 :]
    return Liveness(locked, own, "over" if submission is None else scheduler.place(submission, jobs))


def state_of(cell: Cell, files: CellFiles, found: Liveness | None, scheduler: Scheduler) -> CellState:
    """The state that follows from a cell's files and from what `liveness` says."""
    state, message = _judge(files, found or Liveness(False, "over", "over"))
    attempt = files.attempt
    log = _latest_log(attempt, files.submission)
    if state == "running" and files.submission is not None:
        asked = attempt.job_id if attempt is not None and found and found.own != "over" else files.submission.job_id
        message = "; ".join(filter(None, [message, scheduler.remark(asked)]))
    if state in ("failed", "interrupted") and log is not None:
        message = ": ".join([message, *last_lines(log, 1)])
    return CellState(
        cell.id,
        state,
        message=message,
        attempt=None if attempt is None else attempt.attempt,
        restarts=_restarts(attempt, files.submission),
        node=None if attempt is None else attempt.node or attempt.host,
        exit_code=None if attempt is None else attempt.exit_code,
        log=log,
        warning=files.collapse,
        **_epochs(files.rows, cell.train.training.epochs, state),
    )


def _restarts(attempt: AttemptRecord | None, submission: Submission | None) -> int:
    """How often a cell was started again; the job of a later step of it is no restart."""
    if attempt is None:
        return 0
    jobs = () if submission is None else submission.jobs
    return max(0, attempt.attempt - (jobs.index(attempt.job_id) if attempt.job_id in jobs else 0))


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines that a cell's own programs wrote to its log, fewer where there are fewer; empty without a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("submitit ")][-count:]


def _judge(files: CellFiles, found: Liveness) -> tuple[State, str]:
    """State, and a word on it but for what the log says.

    A job that waits again tells more than the last word of its attempt, which may have been killed with its node.
    """
    attempt, submission = files.attempt, files.submission
    if attempt is not None and attempt.exit_code is None and (found.locked or found.own in ("on a node", "unknown")):
        return "running", "evaluating" if files.trained else "training"
    if files.trained and files.evaluated:
        return "done", ""
    if attempt is not None:
        early = attempt.exit_code in INTERRUPTED_CODES
        if found.own == "waits" or (early and found.own != "over"):
            return "running", COMES_BACK
    if found.later != "over":
        return "running", STARTING
    if files.ending is not None:
        return files.ending.state, files.ending.message
    if submission is not None and not begun(submission, attempt):
        return "interrupted", "its job ended before it began"
    if attempt is None:
        return "pending", ""
    if attempt.exit_code is None:
        return "interrupted", "its job ended without a word"
    if attempt.exit_code in INTERRUPTED_CODES:
        return "interrupted", f"stopped with code {attempt.exit_code}"
    if attempt.exit_code == KILLED:
        # Whether it is run again is for the campaign to find out; nobody has asked yet.
        return "interrupted", f"killed on {attempt.node or attempt.host} (SIGKILL)"
    if attempt.exit_code == 0:
        missing = (
            RunPaths(Path()).cases.name if files.trained else f"a {RunPaths(Path()).record.name} that says complete"
        )
        return "failed", f"ended with code 0 but without {missing}"
    if attempt.exit_code == BackendError.exit_code and files.problem:
        return "absent", files.problem
    if attempt.exit_code == StorageError.exit_code:
        return "failed", "no space, or no leave to write"
    return "failed", f"code {attempt.exit_code}"


def _latest_log(attempt: AttemptRecord | None, submission: Submission | None) -> Path | None:
    if submission is not None and not begun(submission, attempt):
        return submission.log
    return None if attempt is None else attempt.log


def _epochs(rows: Sequence[Mapping[str, Any]], epochs: int, state: State) -> dict[str, Any]:
    """The part of a CellState that the epoch rows tell."""
    train = {row["epoch"]: row for row in rows if row["subset"] == "train"}
    validation = {row["epoch"]: row for row in rows if row["subset"] == "validation"}
    epoch = max(train, default=0)
    last = train.get(epoch, {})
    spent = [row["seconds"] for row in rows if row["seconds"] is not None]
    train_s = sum(spent) if epoch and spent else None
    return {
        "epoch": epoch,
        "epochs": epochs,
        "train_dice": _number(last.get("dice")),
        "validation_dice": _number(validation.get(epoch, {}).get("dice")),
        "images_per_second": _number(last.get("images_per_second")),
        "train_s": train_s,
        "eta_s": None if train_s is None or state != "running" else train_s / epoch * max(0, epochs - epoch),
    }


def _number(value: float | None) -> float | None:
    """NaN, an undefined score, as None."""
    return None if value is None or math.isnan(value) else value
