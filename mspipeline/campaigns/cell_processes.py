"""Processes of a cell on this host, found and ended.

submitit's local executor starts a launcher, and the launcher starts the job:

    campaign -> launcher (submitit.local) -> job (run_commands) -> command (the supervisor) -> the work itself

Its own `cancel` sends SIGINT to the launcher, which kills the job a second later and so leaves the supervisor an orphan
in the middle of a checkpoint. Hence SIGINT stays blocked in the launcher, and a job is stopped by TERM.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from mspipeline.campaigns import host_processes
from mspipeline.campaigns.attempt import AttemptRecord
from mspipeline.campaigns.submission import Submission

KILL_S = 5.0


@contextmanager
def sigint_held_back() -> Iterator[None]:
    """Keep Ctrl-C waiting until the block is left, and away from every process started inside it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def stop(submission: Submission | None, attempt: AttemptRecord | None) -> None:
    """Ask a cell's processes to end in order: state saved, process tree gone. Asking again does no harm."""
    alive = _alive(submission, attempt)
    leaders = [process for process in alive if attempt is not None and process.pid == attempt.pid]
    launchers = [process for process in alive if submission is not None and process.pid == submission.pid]
    tops = [process for process in alive if host_processes.parent(process) not in {other.pid for other in alive}]
    for process in leaders or launchers or tops:
        with suppress(psutil.NoSuchProcess):
            process.terminate()


def kill(submission: Submission | None, attempt: AttemptRecord | None) -> None:
    """End a cell's processes at once; what was not on disk is lost."""
    patience_ends = time.monotonic() + KILL_S
    while (alive := _alive(submission, attempt)) and time.monotonic() < patience_ends:
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=0.2)


def _alive(submission: Submission | None, attempt: AttemptRecord | None) -> list[psutil.Process]:
    """Every process of a cell on this host: launcher, job, the members of the job's session, all descendants."""
    here = socket.gethostname()
    found: list[psutil.Process] = []
    if submission is not None and submission.host == here:
        found.extend(host_processes.tree(submission.pid, submission.pid_created))
    if attempt is not None and attempt.host == here and attempt.exit_code is None:
        found.extend(host_processes.session(attempt.pid, attempt.pid_created))
    return list({process.pid: process for process in found}.values())
