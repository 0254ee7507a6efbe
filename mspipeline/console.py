"""What the command line and the jobs show: progress bars, error lines. Printing happens here and in `cli` alone."""

from __future__ import annotations

import errno
import math
import sys
import traceback
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from mspipeline import startup
from mspipeline.errors import STOPPED, Interrupted, StorageError, SuiteError, UsageError
from mspipeline.startup import silence

PIPE_WIDTH = 200
"""Columns where nobody's terminal says how many there are."""


class _Plain(Console):
    """A console that prints text as it is: brackets and colons in a path are no markup."""

    def __init__(self, *, to_stderr: bool) -> None:
        terminal = (sys.stderr if to_stderr else sys.stdout).isatty()
        width = None if terminal else PIPE_WIDTH
        super().__init__(stderr=to_stderr, soft_wrap=True, highlight=False, markup=False, emoji=False, width=width)

    def on_broken_pipe(self) -> None:
        """`mspipeline ... | head`: nobody reads on, and on stdout, where results go, that is fine."""
        if self.stderr:
            silence(sys.stderr)
            return
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None

    def _write_buffer(self) -> None:
        """Write what was printed. No work ends because its progress cannot be shown: a log's disk is full, a terminal
        is gone. What is a result, on stdout, is another matter.
        """
        try:
            super()._write_buffer()
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self.stderr:
                silence(sys.stdout)  # what is held back for it still is dropped
                raise startup.no_stdout(error) from error
            silence(sys.stderr)


stderr = _Plain(to_stderr=True)
stdout = _Plain(to_stderr=False)


def wants_progress(choice: str) -> bool:
    """Whether to draw bars: `on`, `off`, or `auto`, which means on a terminal."""
    return choice == "on" or (choice == "auto" and sys.stderr.isatty())


def say_error(message: str) -> None:
    """One line on stderr, in red on a terminal."""
    stderr.print(Text.assemble(("error:", "bold red"), " ", message))


def say_warning(message: str) -> None:
    """One line on stderr, in yellow on a terminal."""
    stderr.print(Text.assemble(("warning:", "bold yellow"), " ", message))


def explain(error: BaseException, *, debug: bool) -> int:
    """Print what ended a command, after its traceback where asked for, and return the exit code.

    An error that nobody foresaw has the code of SuiteError, but for a full disk and for files of the user's that are
    not there or not his.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, SuiteError):
        say_error(str(error))
        for line in error.details:
            stderr.print(line)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        say_error(STOPPED)
        return Interrupted.exit_code
    text = " ".join(str(error).split())
    if not isinstance(error, OSError) or not text:
        text = f"{type(error).__name__}: {text}"
    say_error(text if debug else f"{text}; run with --debug for a traceback")
    if isinstance(error, FileNotFoundError | PermissionError):
        return UsageError.exit_code
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageError.exit_code if full else SuiteError.exit_code


def show(value: float | None, digits: int = 3) -> str:
    """A number for people; what is unknown or undefined is a dash."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


class _Bars:
    """Progress bars on stderr while the block runs; none where they are not enabled."""

    def __init__(self, *columns: TextColumn, enabled: bool) -> None:
        layout = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            TimeRemainingColumn(),
        )
        self._progress = Progress(*layout, console=stderr, transient=True, disable=not enabled)
        self._enabled = enabled
        self._task: TaskID | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _start(self, description: str, total: int, completed: int = 0, **fields: Any) -> None:
        self._progress.start()
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, completed=completed, **fields)


class TrainingProgress(_Bars):
    """A `training.loop.Observer`: a bar a pass with loss, Dice and images per second, and a line a finished epoch."""

    def __init__(self, *, enabled: bool) -> None:
        super().__init__(TextColumn("{task.fields[scores]}"), enabled=enabled)

    def __enter__(self) -> TrainingProgress:
        return self

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        """Start the bar of one pass."""
        self._start(f"epoch {epoch}/{epochs} {subset}", steps, step, scores="")

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        """Advance it by one batch."""
        if self._enabled and self._task is not None:
            scores = f"loss {show(loss)}  Dice {show(dice)}  {images_per_second:.0f} images/s"
            self._progress.update(self._task, advance=1, scores=scores)

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        """Print the epoch's line."""
        parts = [f"{row['subset']} loss {show(row['loss'], 4)} Dice {show(row['dice'])}" for row in rows]
        speed = f"{rows[0]['images_per_second']:.0f} images/s, {rows[0]['seconds']:.1f} s"
        stderr.print(f"epoch {epoch}/{epochs}  {'  '.join(parts)}  {speed}")


class CaseProgress(_Bars):
    """A bar over cases; called with (case, done, total)."""

    def __init__(self, what: str, *, enabled: bool) -> None:
        super().__init__(TextColumn("{task.fields[case]}", markup=False), enabled=enabled)
        self._what = what

    def __enter__(self) -> CaseProgress:
        return self

    def __call__(self, case: str, done: int, total: int) -> None:
        if not self._enabled:
            return
        if self._task is None:
            self._start(self._what, total, case=case)
        if self._task is not None:
            self._progress.update(self._task, completed=done, case=case)
