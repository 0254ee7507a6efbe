"""Cells followed to their end: a few at a time, stopped in order when the campaign is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from mspipeline.errors import BackendError, Interrupted, Preempted, SuiteError
from slurm import submit
from slurm.attempt import read_attempt
from slurm.progress import CellState, cell_state
from slurm.site import Site
from slurm.sweep import Cell

Observer = Callable[[list[CellState]], None]
ASK_AGAIN_S = 1.0


class CellsFailed(SuiteError):
    """Cells of a campaign failed. exit_code: that of the first of them, where it is known."""

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code or SuiteError.exit_code


class _CancelAsked(Exception):
    """Somebody asked for the campaign's end from another terminal."""


class Follower:
    """Submits cells, watches them, and stops them; one run of a campaign."""

    def __init__(
        self,
        folder: Path,
        site: Site,
        cells: list[Cell],
        hand_over: Callable[[list[Cell]], list[submit.Handle]],
        observer: Observer | None,
        *,
        poll_s: float,
        grace_s: float,
    ) -> None:
        self._folder = folder
        self._site = site
        self._cells = {cell.id: cell for cell in cells}
        self._hand_over = hand_over
        self._observer = observer
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._states = {cell.id: cell_state(cell) for cell in cells}
        self._active: dict[str, submit.Handle | None] = {}  # None: submitted by an earlier process
        self._waiting: list[str] = []

    def run(self, *, retry_failed: bool) -> list[CellState]:
        """Follow all cells to their end. Raises as Campaign.run does."""
        again = {"pending", "interrupted", "absent", *(["failed"] if retry_failed else [])}
        self._waiting = [name for name, state in self._states.items() if state.state in again]
        self._active = {name: None for name, state in self._states.items() if state.state == "running"}
        try:
            self._follow()
        except (KeyboardInterrupt, _CancelAsked) as error:
            self._stop()
            done = sum(state.state == "done" for state in self._states.values())
            raise Interrupted(
                f"{self._folder}: stopped with {done} of {len(self._cells)} cells done; "
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
        """Look at every active cell; take leave of those that ended."""
        for name, handle in list(self._active.items()):
            ended = handle is None or handle.ended()
            self._states[name] = cell_state(self._cells[name])
            if not ended or self._states[name].state == "running":
                continue
            del self._active[name]
            if handle is None and self._states[name].state == "interrupted":
                self._waiting.insert(0, name)

    def _start_next(self) -> None:
        """Hand over what there is room for: one by one here, all at once on SLURM, which keeps to the limit itself."""
        at_once = len(self._waiting) if self._site.executor == "slurm" else 1
        room = math.inf if self._site.executor == "slurm" else self._site.limit
        while self._waiting and len(self._active) < room:
            names = self._waiting[:at_once]
            with submit.sigint_held_back():
                handles = self._hand_over([self._cells[name] for name in names])
                self._active.update(zip(names, handles, strict=True))
                del self._waiting[:at_once]
            self._states.update({name: cell_state(self._cells[name]) for name in names})

    def _show(self) -> None:
        if self._observer is not None:
            self._observer(list(self._states.values()))

    def _stop(self) -> None:
        """Ask every active cell to end and wait for it; kill what remains after the grace or a second Ctrl-C."""
        self._waiting = []
        deadline = time.monotonic() + self._grace_s
        ask_next = time.monotonic()
        try:
            while self._active and time.monotonic() < deadline:
                if time.monotonic() >= ask_next:
                    submit.stop_all(self._active_jobs())
                    ask_next = time.monotonic() + ASK_AGAIN_S
                self._refresh_after_stop()
                self._show()
                time.sleep(min(self._poll_s, 0.1))
        except KeyboardInterrupt:
            submit.kill_all(self._active_jobs())
        submit.kill_all(self._active_jobs())
        self._refresh_after_stop()

    def _refresh_after_stop(self) -> None:
        self._refresh()
        self._waiting = []

    def _active_jobs(self) -> list[submit.Pair]:
        folders = [self._cells[name].train.run_folder for name in self._active]
        return [(submit.read_submission(folder), read_attempt(folder)) for folder in folders]

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
            )
        if absent and len(absent) == len(self._states):
            raise BackendError(f"no cell could run: {absent[0].message}")
        if early:
            raise Preempted(
                f"{len(early)} of {len(self._cells)} cells ended early: {_name_each(early)}; "
                f"continue with `mspipeline resume {self._folder}`"
            )


def _name_each(states: list[CellState]) -> str:
    """Each cell with its last words and its log, on one line."""
    return "; ".join(f"{state.id} ({state.message}; log: {state.log})" for state in states)
