"""What one job of SLURM does: one cell or several side by side, and how it ends for the jobs that wait for it.

submitit pickles `run_element`. A job that others depend on ends with the code of its commands: for submitit every job
went well that left a result, for SLURM's `afterok` only one that ends with 0.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import submitit

from mspipeline.campaigns.attempt import read_attempt
from mspipeline.campaigns.run_commands import SIGNALS
from mspipeline.config import Strict
from mspipeline.errors import Preempted
from mspipeline.slurm.on_node.node import requeue_if_running, run_inside, run_on_node

_PAUSE_S = 0.1
FAILED = 1


class Work(Strict):
    """What is run for one cell. log: of its own, where several cells share a job.

    needs_earlier: whether it goes on with a cell that a job before this one began, and not with one that failed there.
    """

    commands: tuple[tuple[str, ...], ...]
    cell_folder: Path
    launchers: tuple[tuple[str, ...], ...] = ()
    log: Path | None = None
    needs_earlier: bool = False


def run_element(
    works: Sequence[Mapping[str, object]], environment: Mapping[str, object], propagates_exit_code: bool
) -> int:
    """Run the cells of one job; their code where there is one cell, else that of the first that has one.

    works: fields of Work. propagates_exit_code: end the process with that code, which several cells have only where
    all have one: what waits for this job then goes on with those that went well.
    """
    given = [Work.model_validate(work) for work in works]
    if len(given) == 1:
        (work,) = given
        code = run_on_node(work.commands, str(work.cell_folder), {**environment, "launchers": work.launchers})
    else:
        codes = _side_by_side(given, environment)
        code = next((code for code in codes if code), 0)
        if Preempted.exit_code in codes:
            requeue_if_running(os.environ)
        if propagates_exit_code and 0 in codes and Preempted.exit_code not in codes:
            return 0
    if propagates_exit_code and code:
        sys.exit(code)
    return code


def _side_by_side(works: Sequence[Work], environment: Mapping[str, object]) -> list[int]:
    """Run each cell in a process of its own, on its share of the cores; their codes.

    A process is forked from this one, which has nothing but Python's own modules loaded and no threads.
    """
    shares = _shares(sorted(os.sched_getaffinity(0)), len(works))
    asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
    own = max(1, int(asked) // len(works)) if asked.isdecimal() else 0
    # Blocked until somebody can answer: a signal that comes in between waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    running: dict[int, int] = {}
    for number, (work, share) in enumerate(zip(works, shares, strict=True)):
        if not (child := os.fork()):
            os._exit(_run_one(work, environment, share, own or len(share)))
        running[child] = number

    def pass_on(received: int, frame: FrameType | None) -> None:
        for child in running:
            os.kill(child, received)

    for each in SIGNALS:
        signal.signal(each, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    codes = [0] * len(works)
    while running:
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                codes[running.pop(child)] = 128 - code if code < 0 else code
        time.sleep(_PAUSE_S if running else 0)
    return codes


def _run_one(work: Work, environment: Mapping[str, object], cores: Sequence[int], own: int) -> int:
    """One cell of several, in a process of its own. Whatever goes wrong is in its log.

    cores: where it runs. own: how many are meant for it, fewer where the cluster binds nothing.
    """
    try:
        if work.log is not None:
            log = os.open(work.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, sys.stdout.fileno())
            os.dup2(log, sys.stderr.fileno())
        os.sched_setaffinity(0, cores)
        os.environ["SLURM_CPUS_PER_TASK"] = str(own)
        earlier = read_attempt(work.cell_folder)
        if earlier is not None and earlier.exit_code == 0 and earlier.job_id == submitit.JobEnvironment().job_id:
            return 0  # this job was put back into the queue for another cell
        if earlier is not None and earlier.exit_code and work.needs_earlier:
            return earlier.exit_code
        given = {**environment, "launchers": work.launchers}
        return run_inside(work.commands, str(work.cell_folder), given, work.log)
    except Exception as error:
        print(f"error: {error}", flush=True)
        return FAILED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _shares(cores: Sequence[int], count: int) -> list[list[int]]:
    """Cores dealt to `count` cells, as evenly as it goes; all of them to each where there are fewer than cells.

    >>> _shares([0, 1, 2, 3, 4], 2)
    [[0, 1, 2], [3, 4]]
    >>> _shares([0], 2)
    [[0], [0]]
    """
    if len(cores) < count:
        return [list(cores)] * count
    size, more = divmod(len(cores), count)
    starts = [number * size + min(number, more) for number in range(count + 1)]
    return [list(cores[first:last]) for first, last in itertools.pairwise(starts)]
