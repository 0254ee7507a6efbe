"""Commands that look at a sweep and change nothing."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from mspipeline.commands.app import Json, app
from mspipeline.errors import UsageError, nearest

FOLLOW_S = 0.5
"""Between two looks of `logs --follow`."""


@app.command(epilog="example: mspipeline status sweeps/demo --watch")
def status(
    campaign: Annotated[Path, typer.Argument(help="Campaign folder.")],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing it, to the sweep's end or Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: between two looks.")] = 2.0,
    state: Annotated[list[str] | None, typer.Option(help="Cells in this state alone; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Show how far a sweep is, cell by cell. Changes nothing; any terminal, or a new login, tells the same."""
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.commands.display import print_states
    from mspipeline.commands.display.campaigns import STATE_STYLE

    for word in state or ():
        if word not in STATE_STYLE:
            raise UsageError(f"--state {word}: {nearest(word, list(STATE_STYLE))}")
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other; call `status --json` as often as you need it")
    opened = Campaign.open(campaign)
    if watch:
        _watch(opened, every, state or ())
    else:
        print_states(opened.state(), state or (), as_json=as_json)


def _watch(campaign: Any, every_s: float, only: Sequence[str]) -> None:
    """Show a campaign until nothing of it runs, or until Ctrl-C, which is no error here."""
    from mspipeline.commands.display.campaigns import LiveStates, summary
    from mspipeline.console import stdout

    cache = campaign.state_cache()
    with suppress(KeyboardInterrupt):
        with LiveStates(stdout, only) as show:
            while True:
                followed = campaign.followed()
                states = campaign.state(cache)
                show(states)
                if not followed and not any(each.state == "running" for each in states):
                    break
                time.sleep(every_s)
        if not stdout.is_terminal:
            stdout.print(summary(states))


@app.command(epilog="example: mspipeline logs sweeps/demo unet2d-tensorflow-s0 -f")
def logs(
    campaign: Annotated[Path, typer.Argument(help="Campaign folder.")],
    cell: Annotated[str, typer.Argument(help="Name of a cell, or so much of it that only one is meant.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the cell is over, across restarts.")
    ] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only so many, the last.")] = None,
    attempt: Annotated[int | None, typer.Option(min=0, help="Only what this one wrote; the first is 0.")] = None,
) -> None:
    """Print what a cell's programs wrote, every attempt of it; stderr names the attempt and the file."""
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.logs import LogReader, find_cell
    from mspipeline.console import stderr

    if follow and attempt is not None:
        raise UsageError("--follow and --attempt exclude each other; following shows what the latest attempt writes")
    opened = Campaign.open(campaign)
    chosen = find_cell(opened.cells, cell, campaign)
    reader = LogReader(chosen, attempt)
    cache = opened.state_cache()

    def over() -> Any:
        """The cell's state where nothing of it is to come, None before."""
        followed = opened.followed()
        state = cache.state(chosen)
        return None if state.state == "running" or (followed and state.state in ("pending", "interrupted")) else state

    printed = _Printed()
    ended = over()
    found = reader.new(last=not follow or ended is not None)
    for part, line in found if lines is None else deque(found, maxlen=lines):
        printed.add(part, line)
    for part in reader.missing():
        stderr.print(f"not there{'' if ended else ' yet'}: the log of {part.title}")
    if not printed and not reader.missing():
        state = ended or cache.state(chosen)
        message = f": {state.message}" if state.message else ""
        stderr.print(
            f"{chosen.id}: {'has' if state.attempt is None else 'has written'} no log yet ({state.state}{message})"
        )
    if not follow:
        return
    while ended is None:
        time.sleep(FOLLOW_S)
        ended = over()
        for part, line in reader.new(last=ended is not None):
            printed.add(part, line)
    stderr.print(f"{chosen.id}: {ended.state}{': ' if ended.message else ''}{ended.message}")


class _Printed:
    """Prints lines as they are, and before those of another attempt or log whose they are."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, part: Any, line: str) -> None:
        """Print one line."""
        from mspipeline.console import stderr

        if self._of != (part.attempt, part.log):
            self._of = (part.attempt, part.log)
            sys.stdout.flush()
            stderr.print(f"==> {part.title} <==")
        print(line, flush=True)
