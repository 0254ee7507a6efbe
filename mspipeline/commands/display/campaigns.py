"""The cells of a campaign: a table that fits a terminal, redrawn in place while the campaign runs.

What needs somebody comes first. Where there is no terminal every cell has its line, for `grep` and files.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mspipeline.campaigns.cell_state import CellState
from mspipeline.commands.display.table import print_json, table
from mspipeline.console import show, stderr, stdout

MESSAGE_WIDTH = 48
"""Columns for a cell's last words in the live table, whose height must not jump; `status --json` has them whole."""
STATE_STYLE = {
    "failed": "bold red",
    "interrupted": "yellow",
    "absent": "magenta",
    "running": "cyan",
    "waiting": "blue",
    "pending": "dim",
    "done": "green",
}
"""The states as people see them, in the order in which they are shown where not all cells have room."""
WIDE = 110
"""Columns of a terminal from which on there is room for what a cell does now."""
FRAME_LINES = 9
"""Of the terminal, for what is not a cell: head, what was left out, summary, the shell's prompt."""


def word_of(state: CellState) -> str:
    """The state as people see it: a cell whose job is in the queue waits."""
    return "waiting" if state.waits else state.state


def print_states(states: Sequence[CellState], only: Sequence[str] = (), *, as_json: bool = False) -> None:
    """The cells of a campaign, or those in the states `only`, and a line on the whole of it."""
    chosen = _chosen(states, only)
    if as_json:
        print_json([asdict(state) for state in chosen])
        return
    if chosen:
        room = None if only or not stdout.is_terminal else stdout.height - FRAME_LINES
        for part in _tables(chosen, room, stdout.width):
            stdout.print(part)
    stdout.print(summary(states))


def summary(states: Sequence[CellState]) -> str:
    """`12 cells: 1 failed, 2 running, 9 done; about 2 h 05 min left`."""
    counts = Counter(map(word_of, states))
    counted = ", ".join(f"{counts[word]} {word}" for word in STATE_STYLE if counts[word])
    left = campaign_eta_s(states)
    return f"{len(states)} cells: {counted}" + ("" if left is None else f"; about {_duration(left)} left")


def campaign_eta_s(states: Sequence[CellState]) -> float | None:
    """Seconds until the last cell is trained, if as many run at once as now; None where nothing tells.

    A cell that has no epoch yet takes as long an epoch as the others did on average.
    """
    running = [state for state in states if state.state == "running" and not state.waits]
    epochs = sum(state.epoch for state in states if state.train_s is not None)
    if not running or not epochs:
        return None
    epoch_s = sum(state.train_s for state in states if state.train_s is not None) / epochs

    def left(state: CellState) -> float:
        return epoch_s * (state.epochs - state.epoch) if state.eta_s is None else state.eta_s

    unfinished = [left(state) for state in states if state.state in ("running", "pending", "interrupted")]
    return max(sum(unfinished) / len(running), *map(left, running))


def screen(states: Sequence[CellState], only: Sequence[str], console: Console) -> Group:
    """The cells in the states `only`, or all, and the summary, in no more lines than the console has."""
    return Group(*_tables(_chosen(states, only), console.height - FRAME_LINES, console.width), summary(states))


class LiveStates:
    """Observer of a campaign: a table redrawn in place on a terminal, a line for each cell's change of state elsewhere.

    An epoch is no change of state: a file or a CI log of 10,000 cells must stay readable.
    """

    def __init__(self, console: Console = stderr, only: Sequence[str] = ()) -> None:
        self._console = console
        self._only = only
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown: dict[str, str] = {}
        self._warned: dict[str, str] = {}

    def __enter__(self) -> LiveStates:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, states: list[CellState]) -> None:
        for state in states:
            if state.warning and state.warning != self._warned.get(state.id):
                self._console.print(Text(f"warning: {state.id}: {state.warning}"), soft_wrap=True)
            self._warned[state.id] = state.warning
        if self._live is not None:
            self._live.update(screen(states, self._only, self._console), refresh=True)
            return
        for state in _chosen(states, self._only):
            word = word_of(state)
            if self._shown.get(state.id, "pending") != word:
                self._shown[state.id] = word
                self._console.print(line_of(state))


def line_of(state: CellState) -> str:
    """A cell in one line, without an end: `unet2d-jax-s0: running on c1, epoch 3/12, Dice 0.71 train, - validation`."""
    where = f" on {state.node}" if state.node and state.state == "running" and not state.waits else ""
    line = (
        f"{state.id}: {word_of(state)}{where}, epoch {state.epoch}/{state.epochs}, Dice {show(state.train_dice)} "
        f"train, {show(state.validation_dice)} validation"
    )
    if state.warning:
        line += f"; {state.warning}"
    if state.state in ("failed", "interrupted", "absent") and state.message:
        line += f"; {' '.join(state.message.split())}"
    return line


def _chosen(states: Sequence[CellState], only: Sequence[str]) -> list[CellState]:
    return [state for state in states if not only or word_of(state) in only]


def _tables(states: Sequence[CellState], room: int | None, width: int) -> list[Table | str]:
    """The cells as a table of at most `room` lines, those first that need somebody, and how many have no room."""
    if room is None or len(states) <= room:
        return [_table(states, width)]
    words = list(STATE_STYLE)
    ranked = sorted(states, key=lambda state: words.index(word_of(state)))
    shown, rest = ranked[: max(room, 1)], ranked[max(room, 1) :]
    counts = Counter(map(word_of, rest))
    left_out = ", ".join(f"{counts[word]} {word}" for word in words if counts[word])
    return [_table(shown, width), f"and {left_out}; `--state NAME` shows those of one state"]


def _table(states: Sequence[CellState], width: int) -> Table:
    wide = width >= WIDE
    columns = ["cell", "state", "node", "epoch", "Dice\ntrain", "Dice\nvalid.", "left", "restarts", *["now"][:wide]]
    shown = table(columns, words=3)
    for number, column in enumerate(shown.columns):
        # Names of cells and nodes give way where there is no room: without spaces, they are cut and not wrapped.
        column.no_wrap, column.overflow = number not in (0, 2), "ellipsis"
    for state in states:
        word = word_of(state)
        shown.add_row(
            state.id,
            Text(word, STATE_STYLE[word]),
            state.node or "-",
            f"{state.epoch}/{state.epochs}",
            show(state.train_dice),
            show(state.validation_dice),
            "-" if state.eta_s is None else _duration(state.eta_s),
            str(state.restarts),
            *[textwrap.shorten(_now(state), MESSAGE_WIDTH, placeholder=" ...")][:wide],
        )
    return shown


def _now(state: CellState) -> str:
    """What a cell does now, after what is wrong with it."""
    return "; ".join(filter(None, [state.warning, state.message]))


def _duration(seconds: float) -> str:
    """`40 s`, `3.5 min`, `2 h 05 min`, `3 d 04 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"
