"""How far a cell is, told from its files alone: any terminal, or a new login, tells the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mspipeline.errors import BackendError, DataError, Interrupted, Preempted, RunFolderError
from mspipeline.files import read_json
from mspipeline.runs import RunPaths, read_rows
from mspipeline.telemetry.schema import EPOCHS
from slurm.attempt import AttemptRecord, read_attempt
from slurm.submit import Submission, queued, read_submission, running
from slurm.sweep import Cell

State = Literal["pending", "running", "done", "interrupted", "failed", "absent"]
"""absent: its backend is not installed where it ran, or cannot realise its network; a gap in the comparison."""
STOP_SIGNALS = (1, 2, 10, 12, 15)  # HUP INT USR1 USR2 TERM: somebody asked, nothing went wrong
INTERRUPTED_CODES = (Preempted.exit_code, Interrupted.exit_code, *(128 + number for number in STOP_SIGNALS))
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class CellState:
    """One row of the live table. Unknown values are None.

    attempt: counted from 0. epoch, epochs: finished and asked for. train_dice, validation_dice: of the last finished
    epoch. eta_s: seconds of training still to come. message: what it does now, or its last words. exit_code, log: of
    the last attempt.
    """

    id: str
    state: State
    message: str
    epochs: int
    epoch: int = 0
    train_dice: float | None = None
    validation_dice: float | None = None
    images_per_second: float | None = None
    eta_s: float | None = None
    attempt: int | None = None
    exit_code: int | None = None
    log: Path | None = None


def cell_state(cell: Cell) -> CellState:
    """The state of one cell now; one whose own files cannot be read is `failed`, with the reason as its message."""
    paths = RunPaths(cell.train.run_folder)
    epochs = cell.train.training.epochs
    try:
        submission = read_submission(paths.root)
        state, message, attempt = _judge(paths, submission)
        progress = _epochs(paths, epochs, state)
    except RunFolderError as error:
        return CellState(cell.id, "failed", message=str(error), epochs=epochs)
    log = _latest_log(attempt, submission)
    if state in ("failed", "interrupted") and log is not None:
        message = ": ".join([message, *last_lines(log, 1)])
    return CellState(
        cell.id,
        state,
        message=message,
        attempt=None if attempt is None else attempt.attempt,
        exit_code=None if attempt is None else attempt.exit_code,
        log=log,
        **progress,
    )


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


def _judge(paths: RunPaths, submission: Submission | None) -> tuple[State, str, AttemptRecord | None]:
    """State, a word on it but for what the log says, and the attempt it was judged by."""
    attempt = read_attempt(paths.root)
    submitted_alone = submission is not None and (attempt is None or attempt.job_id != submission.job_id)
    lives = attempt is not None and running(attempt, submission, paths.root)
    ended_early = attempt is not None and attempt.exit_code in (None, *INTERRUPTED_CODES)
    waits = submission is not None and (submitted_alone or ended_early) and queued(submission)
    attempt = read_attempt(paths.root)  # again: what ended since the first look has left its last word
    trained = _word(paths, "status") == "complete"
    if attempt is not None and attempt.exit_code is None and (lives or waits):
        return "running", "evaluating" if trained else "training", attempt
    if trained and paths.cases.exists():
        return "done", "", attempt
    if waits and not submitted_alone and submission is not None and submission.executor == "slurm":
        # Preempted, requeued or warned of its time limit: it comes back.
        return "running", "waiting to continue", attempt
    if submission is not None and (attempt is None or attempt.job_id != submission.job_id):
        if waits:
            return "running", "starting", attempt
        if attempt is None or submission.submitted_utc > attempt.started_utc:
            return "interrupted", "its job ended before it began", attempt
    if attempt is None:
        return "pending", "", attempt
    if attempt.exit_code is None:
        return "interrupted", "its job ended without a word", attempt
    if attempt.exit_code in INTERRUPTED_CODES:
        return "interrupted", f"stopped with code {attempt.exit_code}", attempt
    if attempt.exit_code == 0:
        missing = paths.cases.name if trained else f"a {paths.record.name} that says complete"
        return "failed", f"ended with code 0 but without {missing}", attempt
    if attempt.exit_code == BackendError.exit_code and (problem := _word(paths, "problem")):
        return "absent", problem, attempt
    return "failed", f"code {attempt.exit_code}", attempt


def _word(paths: RunPaths, key: str) -> str | None:
    """What `run.json` says of the training under `key`; None where it does not say."""
    try:
        document = read_json(paths.record, what="run record", remedy="resume the campaign")
    except DataError:
        return None
    return document.get(key) if isinstance(document, dict) else None


def _latest_log(attempt: AttemptRecord | None, submission: Submission | None) -> Path | None:
    if submission is not None and (attempt is None or submission.submitted_utc > attempt.started_utc):
        return submission.log
    return None if attempt is None else attempt.log


def _epochs(paths: RunPaths, epochs: int, state: State) -> dict[str, Any]:
    """The part of a CellState that the epoch rows tell."""
    rows = (
        read_rows(paths.epochs, EPOCHS).select(["epoch", "subset", "seconds", "images_per_second", "dice"]).to_pylist()
    )
    train = {row["epoch"]: row for row in rows if row["subset"] == "train"}
    validation = {row["epoch"]: row for row in rows if row["subset"] == "validation"}
    epoch = max(train, default=0)
    last = train.get(epoch, {})
    spent = [row["seconds"] for row in rows if row["seconds"] is not None]
    left = sum(spent) / epoch * max(0, epochs - epoch) if epoch and spent and state == "running" else None
    return {
        "epoch": epoch,
        "epochs": epochs,
        "train_dice": _number(last.get("dice")),
        "validation_dice": _number(validation.get(epoch, {}).get("dice")),
        "images_per_second": _number(last.get("images_per_second")),
        "eta_s": left,
    }


def _number(value: float | None) -> float | None:
    """NaN, an undefined score, as None."""
    return None if value is None or math.isnan(value) else value
