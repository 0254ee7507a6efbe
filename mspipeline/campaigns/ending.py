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
import math
import os
import re
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc

from mspipeline.campaigns.attempt import AttemptRecord, newest_state, tries_failed
from mspipeline.config import Strict, parse
from mspipeline.errors import ConfigError, DataError, Interrupted, Preempted, RunFolderError, StorageError, TableError
from mspipeline.files import read_json, write_json
from mspipeline.runs import RunPaths
from mspipeline.slurm import modules
from mspipeline.slurm.submission import queue
from mspipeline.slurm.submission.submit import Submission
from mspipeline.tables.schema import SAMPLES_STREAM
from mspipeline.telemetry.shard import read_stream

STOP_SIGNALS = (1, 2, 10, 12, 15)  # HUP INT USR1 USR2 TERM: somebody asked, nothing went wrong
INTERRUPTED_CODES = (Preempted.exit_code, Interrupted.exit_code, *(128 + number for number in STOP_SIGNALS))
KILLED = 128 + 9
GIB = 2**30
MARGIN = 1.25
_NEAR = 0.9
"""A cell that was killed with this share of its memory in use most likely died of it."""
_TAIL_BYTES = 65536
_OVER_LIMIT = re.compile(r"exceeded memory limit \((\d+) > (\d+)\)")


class NoAnswer(Exception):
    """SLURM does not say how a job ended: nothing is to be judged before it does."""


class Ending(Strict):
    """`ending.json`. attempt: the one it is about; null where the job ended before it began.

    again: whether the campaign runs the cell again by itself. tries: attempts that died in a row without getting
    further.
    """

    schema_version: int = 1
    job_id: str
    attempt: int | None
    state: Literal["failed", "interrupted"]
    message: str
    again: bool
    tries: int = 0


@dataclass(frozen=True)
class Allowance:
    """What a cell may use: tries in a row, and GiB of memory where its site says."""

    tries: int
    mem_gb: float | None


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
    cell_folder: Path, submission: Submission, attempt: AttemptRecord | None, allowed: Allowance, unbegun: int = 0
) -> Ending | None:
    """What to report and do about a cell whose jobs are over; None where its own files tell enough.

    unbegun: jobs of this cell in a row that ended before they began, this one not counted.
    Raises NoAnswer where SLURM would have to tell and does not answer.
    """
    number = None if attempt is None else attempt.attempt
    begun = attempt is not None and attempt.job_id in submission.jobs

    def ending(state: Literal["failed", "interrupted"], message: str, *, again: bool = False, tries: int = 0) -> Ending:
        return Ending(
            job_id=submission.job_id, attempt=number, state=state, message=message, again=again, tries=tries
        )  # fmt: skip

    refused = modules.refusal_in(submission.job_log) if submission.executor == "slurm" else ""
    if refused:
        return ending("failed", refused)
    if attempt is None or not begun:
        if _full(cell_folder):
            return ending("failed", f"no space: {cell_folder} cannot be written; free some")
        word = _word(submission, None)
        if word in ("", "CANCELLED"):
            return None
        if unbegun + 1 >= allowed.tries:
            return ending(
                "failed", f"{unbegun + 1} jobs ended before they began ({word}); see its log", tries=unbegun + 1
            )
        return ending("interrupted", f"its job ended before it began ({word})", again=True, tries=unbegun + 1)
    code = attempt.exit_code
    log_text = _tail(attempt.log, attempt.log_start)
    ran_out = _memory(cell_folder, submission, attempt, allowed, log_text)
    if ran_out:
        return ending("failed", ran_out)
    if code in INTERRUPTED_CODES:
        # SLURM puts such a job back itself, unless the cluster's PreemptMode is CANCEL or a requeue was refused.
        word = _word(submission, attempt)
        if word in ("PREEMPTED", "TIMEOUT", "NODE_FAIL"):
            return ending("interrupted", "preempted, its state saved", again=True)
        # Warned of its time limit, and the controller did not answer when it asked to be put back.
        warned = attempt.asked == signal.SIGUSR2.name and newest_state(cell_folder) != attempt.state_saved
        if submission.executor == "slurm" and warned and word != "CANCELLED":
            return ending("interrupted", "its time ended, its state saved", again=True)
        return None
    if code not in (None, KILLED):
        return None
    if _full(cell_folder):
        return ending("failed", f"no space: {cell_folder} cannot be written; free some")
    word = _word(submission, attempt)
    if word == "CANCELLED":
        return ending("interrupted", "cancelled before its state was saved")
    tries = tries_failed(attempt, newest_state(cell_folder))
    why = _cause(word, attempt)
    if tries >= allowed.tries:
        return ending("failed", f"died {tries} times without getting further; the last time: {why}", tries=tries)
    count = f" (try {tries} of {allowed.tries})" if tries else ""
    return ending("interrupted", f"{why}{count}; it is run again", again=True, tries=tries)


def _word(submission: Submission, attempt: AttemptRecord | None) -> str:
    """SLURM's state of the job that ended; empty of a local one, and where SLURM does not know it any more.

    Raises NoAnswer where SLURM does not answer.
    """
    if submission.executor != "slurm":
        return ""
    job = submission.job_id if attempt is None else attempt.job_id
    word = queue.end_of(job)
    if word == queue.SILENT:
        raise NoAnswer(job)
    return word


def _cause(word: str, attempt: AttemptRecord) -> str:
    """Why an attempt died."""
    if word == "NODE_FAIL":
        return f"its node {attempt.node or attempt.host} failed"
    if word == "TIMEOUT":
        return "TIMEOUT: its time limit came before its state was saved: raise time_min or warn_s in the site file"
    if attempt.asked is not None:
        return f"killed after {attempt.asked}, before its state was saved"
    return f"killed on {attempt.node or attempt.host} (SIGKILL)"


def _memory(
    cell_folder: Path, submission: Submission, attempt: AttemptRecord, allowed: Allowance, log_text: str
) -> str:
    """The message for a cell that ran out of memory; empty where it did not.

    The peak is the first that is known of: SLURM's word in the log, its accounting, the samples beside the job.
    """
    reported = _OVER_LIMIT.findall(log_text)
    if reported:
        return _advice("killed by its memory limit", max(int(peak) for peak, _ in reported), int(reported[0][1]) / GIB)
    last = log_text.strip().rpartition("\n")[2]
    if attempt.exit_code not in (None, KILLED):
        python = "MemoryError" in last
        return _advice("memory ran out", _sampled(cell_folder), allowed.mem_gb) if python else ""
    peak = _sampled(cell_folder)
    limit_gb = allowed.mem_gb if submission.executor == "slurm" else None
    if submission.executor == "slurm" and _word(submission, attempt) == "OUT_OF_MEMORY":
        return _advice("killed by its memory limit", queue.peak_bytes(attempt.job_id) or peak, limit_gb)
    if attempt.memory_ran_out:
        return _advice("killed by the kernel, for memory ran out", peak, limit_gb)
    if limit_gb and peak and peak > _NEAR * limit_gb * GIB:
        return _advice("killed, most likely by its memory limit", peak, limit_gb)
    return ""


def _advice(what: str, peak: int | None, limit_gb: float | None) -> str:
    """The words, the peak, and what to set where the site has a limit of its own."""
    had = f" at {peak / GIB:.2f} GB" if peak else ""
    of = f" of {limit_gb:g}" if limit_gb and peak else f" (mem_gb = {limit_gb:g})" if limit_gb else ""
    better = math.ceil(2 * MARGIN * max(peak or 0, (limit_gb or 0) * GIB) / GIB) / 2
    if limit_gb:
        return f"{what}{had}{of}; set mem_gb = {better:g} or more in the site file, or a smaller batch_size"
    return f"{what}{had}; run fewer cells at a time, or with a smaller batch_size"


def _sampled(cell_folder: Path) -> int | None:
    """The most resident memory that the samples of the latest job show, in bytes; None where there are none."""
    attempts = [paths for paths in RunPaths(cell_folder).attempts() if paths.samples.exists()]
    if not attempts:
        return None
    latest = max(attempts, key=lambda paths: paths.samples.stat().st_mtime_ns)
    with suppress(TableError, OSError):
        value = pc.max(read_stream(latest.samples, SAMPLES_STREAM)["rss_bytes"]).as_py()
        return None if value is None else int(value)
    return None


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
