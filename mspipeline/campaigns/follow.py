"""Cells followed to their end: a few at a time, run again when they die, stopped in order with the campaign.

While a scheduler does not answer, nothing is judged, submitted or given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mspipeline.campaigns.attempt import forgive, read_attempt
from mspipeline.campaigns.cell_processes import sigint_held_back
from mspipeline.campaigns.cell_state import CellState, last_lines
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.ending import Ending, ending_of, read_ending, write_ending
from mspipeline.campaigns.scheduler import NoAnswer, Obstacle, Pair, Scheduler
from mspipeline.campaigns.site import Site
from mspipeline.campaigns.state_cache import StateCache
from mspipeline.campaigns.submission import Handle, Submission, begun, read_submission
from mspipeline.errors import BackendError, Interrupted, Preempted, RunFolderError, SuiteError

Observer = Callable[[list[CellState]], None]
ASK_AGAIN_S = 1.0
HOPELESS_S = 60.0
"""How long a job may report a hopeless reason before it is cancelled; the reason may pass."""
SHOWN_CELLS = 3
SHOWN_LINES = 8


class CellsFailed(SuiteError):
    """Cells of a campaign failed. exit_code: that of the first of them, where it is known. details: ends of logs."""

    def __init__(self, message: str, exit_code: int | None, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.exit_code = exit_code or SuiteError.exit_code
        self.details = details


class _CancelAsked(Exception):
    """Somebody asked for the campaign's end from another terminal."""


class Follower:
    """Submits cells, watches them, and stops them; one run of a campaign."""

    def __init__(
        self,
        folder: Path,
        site: Site,
        scheduler: Scheduler,
        cells: list[Cell],
        hand_over: Callable[[list[Cell]], list[Handle]],
        observer: Observer | None,
        *,
        poll_s: float,
        grace_s: float,
    ) -> None:
        self._folder = folder
        self._site = site
        self._scheduler = scheduler
        self._cells = {cell.id: cell for cell in cells}
        self._hand_over = hand_over
        self._observer = observer
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._stopping = False
        self._unbegun: dict[str, int] = {}  # jobs in a row that ended before they began
        self._released: set[str] = set()  # jobs that were held after a launch that failed, let go once
        self._hopeless: dict[str, float] = {}  # since when a job says that it will never start
        self._cache = StateCache(scheduler, folder / "finished.json")
        self._states = {state.id: state for state in self._cache.states(cells)}
        self._active: dict[str, Handle | None] = {}  # None: submitted by an earlier process
        self._waiting: list[str] = []

    def run(self, *, retry_failed: bool) -> list[CellState]:
        """Follow all cells to their end. Raises as Campaign.run does."""
        again = {"pending", "interrupted", "absent", *(["failed"] if retry_failed else [])}
        for name, state in self._states.items():
            if state.state == "failed" and retry_failed:
                forgive(self._cells[name].train.run_folder)
            elif state.state in ("interrupted", "failed"):
                with suppress(NoAnswer):
                    self._look_back(name)  # it may have ended while nobody watched
        self._waiting = [name for name, state in self._states.items() if state.state in again]
        self._active = {name: None for name, state in self._states.items() if state.state == "running"}
        try:
            self._follow()
        except (KeyboardInterrupt, _CancelAsked) as error:
            self._stop()
            done = sum(state.state == "done" for state in self._states.values())
            left = f"{len(self._active)} could not be stopped, see `mspipeline status`; " if self._active else ""
            raise Interrupted(
                f"{self._folder}: stopped with {done} of {len(self._cells)} cells done; {left}"
                f"continue with `mspipeline resume {self._folder}`"
            ) from error
        except BaseException:
            self._observer = None  # it may be what failed
            self._stop()
            raise
        self._judge()
        return list(self._states.values())

    def _follow(self) -> None:
        while True:
            self._refresh()
            self._start_next()
            self._show()
            if not self._active and not self._waiting:
                return
            if (self._folder / "cancel").exists():
                raise _CancelAsked
            time.sleep(self._poll_s)

    def _refresh(self) -> None:
        """Ask for the state of every active cell; take leave of those that ended."""
        for name, handle in list(self._active.items()):
            ended = handle is None or handle.ended()
            self._states[name] = self._cache.state(self._cells[name])
            if not ended or self._states[name].state == "running":
                self._see_to_the_queue(name)
                continue
            ending = None
            if not self._stopping and self._states[name].state in ("interrupted", "failed"):
                try:
                    ending = self._look_back(name)
                except NoAnswer:
                    continue  # judged when the scheduler answers again
            del self._active[name]
            if ending.again if ending else handle is None and self._states[name].state == "interrupted":
                self._waiting.insert(0, name)

    def _look_back(self, name: str) -> Ending | None:
        """Find out how a cell's job ended, where it could not say, and keep it for every terminal."""
        cell = self._cells[name]
        folder = cell.train.run_folder
        try:
            submission, attempt = read_submission(folder), read_attempt(folder)
            ending = read_ending(folder, submission, attempt)
        except RunFolderError:
            return None
        if submission is None or ending is not None:
            return ending
        ending = ending_of(
            folder,
            submission,
            attempt,
            self._scheduler,
            tries_allowed=self._site.tries,
            mem_gb=self._scheduler.memory_limit_gb(self._site.partition_for(cell.train.device)[1]),
            unbegun=self._unbegun.get(name, 0),
        )
        if ending is not None:
            write_ending(folder, ending)
            state = self._cache.state(cell)
            if not state.message.startswith(ending.message):  # the disk is full: this process alone knows
                state = replace(state, state=ending.state, message=ending.message)
            self._states[name] = state
            self._unbegun[name] = 0 if begun(submission, attempt) else ending.tries
        return ending

    def _see_to_the_queue(self, name: str) -> None:
        """Release what was held after a launch that failed, once; give up what will never start."""
        if self._stopping or not self._scheduler.stuck():
            return
        submission = read_submission(self._cells[name].train.run_folder)
        if submission is None:
            return
        for job in submission.jobs:
            obstacle = self._scheduler.obstacle(job)
            if obstacle is None:
                self._hopeless.pop(job, None)
            elif obstacle.kind == "held" and job not in self._released:
                self._released.add(job)
                self._scheduler.release(job)
            elif obstacle.kind != "hopeless" or self._hopeless_for_s(job) >= HOPELESS_S:
                self._give_up(name, submission, obstacle)

    def _hopeless_for_s(self, job: str) -> float:
        """How long a job has reported a hopeless reason."""
        now = time.monotonic()
        return now - self._hopeless.setdefault(job, now)

    def _give_up(self, name: str, submission: Submission, obstacle: Obstacle) -> None:
        """Take a cell's jobs out of the queue; a cell that waits for one that failed is judged by that one."""
        folder = self._cells[name].train.run_folder
        self._scheduler.withdraw(submission.jobs)
        attempt = read_attempt(folder)
        if obstacle.kind == "dependency" and begun(submission, attempt):
            return
        number = None if attempt is None else attempt.attempt
        message = f"never starts: {obstacle.remark}"
        write_ending(
            folder,
            Ending(job_id=submission.job_id, attempt=number, state="failed", message=message, again=False),
        )

    def _start_next(self) -> None:
        """Hand over what there is room for: one by one, or all at once to a scheduler that keeps the limit itself."""
        room = self._scheduler.limit(self._site)
        at_once = len(self._waiting) if self._scheduler.queues else 1
        if self._waiting and not self._scheduler.answers():
            return
        while self._waiting and len(self._active) < room:
            names = self._waiting[:at_once]
            with sigint_held_back():
                handles = self._hand_over([self._cells[name] for name in names])
                self._active.update(zip(names, handles, strict=True))
                del self._waiting[:at_once]
            self._states.update({name: self._cache.state(self._cells[name]) for name in names})

    def _show(self) -> None:
        if self._observer is not None:
            self._observer(list(self._states.values()))

    def _stop(self) -> None:
        """Ask every active cell to end and wait for it; kill what remains after the grace or a second Ctrl-C."""
        self._waiting = []
        self._stopping = True
        deadline = time.monotonic() + self._grace_s
        ask_next = time.monotonic()
        try:
            while self._active and time.monotonic() < deadline:
                if time.monotonic() >= ask_next:
                    self._scheduler.stop(self._active_jobs())
                    ask_next = time.monotonic() + ASK_AGAIN_S
                self._refresh_after_stop()
                self._show()
                time.sleep(min(self._poll_s, 0.1))
        except KeyboardInterrupt:
            self._scheduler.kill(self._active_jobs())
        self._scheduler.kill(self._active_jobs())
        self._refresh_after_stop()

    def _refresh_after_stop(self) -> None:
        self._refresh()
        self._waiting = []

    def _active_jobs(self) -> list[Pair]:
        folders = [self._cells[name].train.run_folder for name in self._active]
        return [(read_submission(folder), read_attempt(folder)) for folder in folders]

    def _judge(self) -> None:
        """Raise CellsFailed or Preempted where the campaign is not complete."""
        failed = [state for state in self._states.values() if state.state == "failed"]
        absent = [state for state in self._states.values() if state.state == "absent"]
        early = [state for state in self._states.values() if state.state not in ("done", "failed", "absent")]
        if failed:
            raise CellsFailed(
                f"{len(failed)} of {len(self._cells)} cells failed: {_name_each(failed)}; when the cause is gone, "
                f"`mspipeline resume {self._folder} --retry-failed`",
                failed[0].exit_code,
                _last_words(failed),
            )
        if absent and len(absent) == len(self._states):
            raise BackendError(f"no cell could run: {absent[0].message}")
        if early:
            raise Preempted(
                f"{len(early)} of {len(self._cells)} cells ended early: {_name_each(early)}; "
                f"continue with `mspipeline resume {self._folder}`"
            )


def _last_words(states: list[CellState]) -> tuple[str, ...]:
    """The ends of the logs of the first cells, a line each."""
    lines: list[str] = []
    for state in states[:SHOWN_CELLS]:
        if state.log is not None:
            lines += [f"{state.id}, {state.log}:", *(f"  {line}" for line in last_lines(state.log, SHOWN_LINES))]
    return tuple(lines)


def _name_each(states: list[CellState]) -> str:
    """Each cell with its last words and its log, on one line."""
    return "; ".join(f"{state.id} ({state.message}; log: {state.log})" for state in states)
