"""A campaign stopped from another terminal than the one that runs it, or where nobody runs it any more."""

from __future__ import annotations

import os
import socket
import time

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.campaign import GRACE_S, Campaign
from mspipeline.campaigns.cell_state import CellState
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.scheduler import Pair, Scheduler
from mspipeline.campaigns.submission import read_submission
from mspipeline.errors import UsageError
from mspipeline.files import write_bytes


def cancel(campaign: Campaign, *, grace_s: float = GRACE_S, poll_s: float = 0.2) -> list[CellState]:
    """Ask all that runs of a campaign to end, wait up to `grace_s`; return the states.

    Raises UsageError where cells run on another host, which cannot be reached from here, and where some may run on
    because the scheduler does not answer; ConfigError where its programs are not on this machine.
    """
    scheduler, folder = campaign.scheduler, campaign.folder
    scheduler.refuse_if_absent(str(folder))
    flag = folder / "cancel"
    deadline = time.monotonic() + grace_s
    while True:
        followed = campaign.followed()
        running = [state.id for state in campaign.state() if state.state == "running"]
        if not followed:
            before_and_after.stop(folder, scheduler)
        if not followed and not running:
            break
        if time.monotonic() > deadline:
            break
        if followed:
            write_bytes(flag, f"{socket.gethostname()} {os.getpid()}\n".encode())
        else:
            scheduler.stop([_unfollowed(cell, scheduler) for cell in campaign.cells if cell.id in running])
        time.sleep(poll_s)
    flag.unlink(missing_ok=True)
    states = campaign.state()
    left = sum(state.state == "running" for state in states)
    if left and not scheduler.answers():
        raise UsageError(
            f"{folder}: {scheduler.title} does not answer, and {left} cells may run on; "
            f"`mspipeline cancel {folder}` again when it does"
        )
    return states


def _unfollowed(cell: Cell, scheduler: Scheduler) -> Pair:
    """The job of a cell that no process follows. Raises UsageError where it cannot be reached from here."""
    folder = cell.train.run_folder
    submission = read_submission(folder)
    problem = "" if submission is None else scheduler.out_of_reach(submission)
    if problem:
        raise UsageError(f"{cell.id}: {problem}")
    return submission, read_attempt(folder)
