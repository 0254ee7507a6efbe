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

from mspipeline.campaigns.attempt import AttemptRecord, read_attempt
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.ending import INTERRUPTED_CODES, KILLED, Ending, read_ending
from mspipeline.errors import BackendError, DataError, RunFolderError, StorageError
from mspipeline.files import read_json
from mspipeline.parallel.lock import held
from mspipeline.runs import RunPaths, read_rows
from mspipeline.slurm.submission import submit
from mspipeline.slurm.submission.queue import QUEUE
from mspipeline.slurm.submission.submit import Submission, begun, read_submission
from mspipeline.tables.schema import EPOCHS

State = Literal["pending", "running", "done", "interrupted", "failed", "absent"]
"""absent: its backend is not installed where it ran, or cannot realise its network; a gap in the comparison."""
STARTING = "starting"
WAITING = "waiting"
COMES_BACK = f"{WAITING} to continue"  # preempted, requeued, or warned of its time limit
_TAIL_BYTES = 8192
Place = Literal["over", "waits", "on a node", "unknown"]
"""Where a job is. over: no longer in the queue. unknown: nobody answers."""
_WAITING_STATES = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


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
class CellFiles:
    """What the files of a cell say. status, problem: of `run.json`. evaluated: whether there are scores of cases.

    collapse: how the training has collapsed, in words; empty where it has not.
    ending: what the campaign found out about the end of this attempt.
    rows: those of `epochs.arrow`, the columns that a CellState is made of.
    """

    submission: Submission | None
    attempt: AttemptRecord | None
    status: str | None
    problem: str | None
    evaluated: bool
    ending: Ending | None
    rows: tuple[dict[str, Any], ...]
    collapse: str = ""

    @property
    def trained(self) -> bool:
        return self.status == "complete"

    @property
    def done(self) -> bool:
        """Whether these files alone make the cell `done`, whatever the queue says."""
        return self.trained and self.evaluated and (self.attempt is None or self.attempt.exit_code is not None)


@dataclass(frozen=True, slots=True)
class Liveness:
    """What no file tells of a cell. locked: whether its attempt holds the lock, as far as this host can see.

    own: where the attempt's job is. later: where a job is that is to go on with the cell after that one.
    """

    locked: bool
    own: Place
    later: Place


def read_files(cell: Cell) -> CellFiles:
    """What the files of a cell say now. Raises RunFolderError where one cannot be read."""
    paths = RunPaths(cell.train.run_folder)
    record = _record(paths)
    submission, attempt = read_submission(paths.root), read_attempt(paths.root)
    columns = ["epoch", "subset", "seconds", "images_per_second", "dice"]
    return CellFiles(
        submission=submission,
        attempt=attempt,
        status=record.get("status"),
        problem=record.get("problem"),
        evaluated=paths.cases.exists(),
        ending=read_ending(paths.root, submission, attempt),
        rows=tuple(read_rows(paths.epochs, EPOCHS).select(columns).to_pylist()),
        collapse=(
            f"collapsed: predicts {record.get('collapsed_to')} since epoch {record.get('collapsed_epoch')}"
            if record.get("collapsed")
            else ""
        ),
    )


def cell_state(cell: Cell) -> CellState:
    """The state of one cell now; one whose own files cannot be read is `failed`, with the reason as its message."""
    try:
        files = read_files(cell)
        found = liveness(cell, files)
        if found is not None:
            files = read_files(cell)  # again: what ended since the first look has left its last word
    except RunFolderError as error:
        return unreadable(cell, error)
    return state_of(cell, files, found)


def unreadable(cell: Cell, error: RunFolderError) -> CellState:
    """The state of a cell whose files cannot be read."""
    return CellState(cell.id, "failed", message=str(error), epochs=cell.train.training.epochs)


def liveness(cell: Cell, files: CellFiles) -> Liveness | None:
    """What the lock and the scheduler say of a cell; None where its files alone tell its state."""
    attempt, submission = files.attempt, files.submission
    if files.done or (attempt is None and submission is None):
        return None
    own: Place = "over"
    jobs = [] if submission is None else list(submission.jobs)
    locked = False
    if attempt is not None:
        here = attempt.host == socket.gethostname()
        locked = here and attempt.exit_code is None and held(cell.train.run_folder / "lock")
        own = _place_of_attempt(attempt, submission, here=here)
        if attempt.job_id in jobs:
            jobs = jobs[jobs.index(attempt.job_id) + 1 :]
    return Liveness(locked, own, "over" if submission is None else _place(submission, jobs))


def _place_of_attempt(attempt: AttemptRecord, submission: Submission | None, *, here: bool) -> Place:
    """Where the job of an attempt is, also of one that nobody could record when it was submitted."""
    if submission is not None and submission.executor == "local":
        return _place(submission, [attempt.job_id]) if attempt.job_id == submission.job_id else "over"
    if attempt.node is None:
        return "over" if here else "unknown"
    place = _place_in_queue(attempt.job_id)
    return "over" if place == "unknown" and here and submission is None else place  # then the lock tells


def _place(submission: Submission, jobs: Sequence[str]) -> Place:
    """Where these jobs of a submission are: on a node where one of them is, in the queue where one still waits."""
    if not jobs:
        return "over"
    if submission.executor == "local":
        return "on a node" if submit.queued(submission) else "over"
    places = [_place_in_queue(job) for job in jobs]
    order: tuple[Place, ...] = ("on a node", "waits", "unknown")
    return next((each for each in order if each in places), "over")


def _place_in_queue(job_id: str) -> Place:
    state = QUEUE.state(job_id)
    if state is None:
        return "over"
    if state == "UNKNOWN":
        return "unknown"
    return "waits" if state in _WAITING_STATES else "on a node"


def state_of(cell: Cell, files: CellFiles, found: Liveness | None) -> CellState:
    """The state that follows from a cell's files and from what `liveness` says."""
    state, message = _judge(files, found or Liveness(False, "over", "over"))
    attempt = files.attempt
    log = _latest_log(attempt, files.submission)
    if state == "running" and files.submission is not None and files.submission.executor == "slurm":
        asked = attempt.job_id if attempt is not None and found and found.own != "over" else files.submission.job_id
        message = "; ".join(filter(None, [message, QUEUE.remark(asked)]))
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
    on_slurm = submission is None or submission.executor == "slurm"
    if attempt is not None and on_slurm:
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


def _record(paths: RunPaths) -> dict[str, Any]:
    """What `run.json` says; nothing where there is none that can be read."""
    try:
        document = read_json(paths.record, what="run record", remedy="resume the campaign")
    except DataError:
        return {}
    return document if isinstance(document, dict) else {}


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
