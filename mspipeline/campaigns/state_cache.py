"""The cells of a campaign looked at again and again: only what has changed since is read.

Every file of a cell appears by a rename (mspipeline.files), which moves its folder's time of change. So a folder whose
time is the one that was seen before holds what was read then, and one question to the file system a cell is enough. A
folder that has changed within the last minute is read all the same: times are coarse, and a file server's clock may be
off. Whether an attempt lives is asked anew each time; that no file tells.

CAMPAIGN/finished.json holds the states of cells that are done, each with its folder's time, for the next process that
looks. It is made from the cells' own files and may be removed at any moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from mspipeline.campaigns.cell_files import CellFiles, read_files
from mspipeline.campaigns.cell_state import CellState, liveness, state_of, unreadable
from mspipeline.campaigns.cells import Cell
from mspipeline.campaigns.scheduler import Scheduler
from mspipeline.errors import RunFolderError, StorageError
from mspipeline.files import write_bytes
from mspipeline.parallel.lock import hold

SCHEMA_VERSION = 1
FIELDS = tuple(each.name for each in fields(CellState))
SETTLED_S = 60.0
KEEP_EVERY = 200
"""Number of newly done cells that are worth a new finished.json; a campaign of fewer cells never has one."""


class StateCache:
    """The states of a campaign's cells as they were seen last. finished: the file that keeps those that are done."""

    def __init__(self, scheduler: Scheduler, finished: Path | None = None) -> None:
        self._scheduler = scheduler
        self._finished = finished
        self._files: dict[str, tuple[int, CellFiles]] = {}
        self._done: dict[str, tuple[int, CellState]] = {} if finished is None else _read(finished)
        self._kept = len(self._done)

    def states(self, cells: Iterable[Cell]) -> list[CellState]:
        """The state of each cell now, in their order."""
        states = [self.state(cell) for cell in cells]
        if self._finished is not None and len(self._done) >= self._kept + KEEP_EVERY:
            self._kept = len(self._done)
            _write(self._finished, self._done)
        return states

    def state(self, cell: Cell) -> CellState:
        """The state of one cell now; one whose own files cannot be read is `failed`, with the reason as its message."""
        changed = _changed(cell)
        if changed is None:
            return CellState(cell.id, "pending", message="", epochs=cell.train.training.epochs)
        known = self._done.get(cell.id)
        if known is not None and known[0] == changed:
            return known[1]
        self._done.pop(cell.id, None)
        try:
            files = self._read(cell, changed)
            found = liveness(cell, files, self._scheduler)
            if found is not None:
                # Again: what ended since the first look has left its last word.
                changed = _changed(cell) or changed
                files = self._read(cell, changed)
        except RunFolderError as error:
            return unreadable(cell, error)
        state = state_of(cell, files, found, self._scheduler)
        if files.done and _settled(changed):
            self._done[cell.id] = changed, state
            self._files.pop(cell.id, None)
        return state

    def _read(self, cell: Cell, changed: int) -> CellFiles:
        """A cell's files, from memory where its folder is as it was."""
        known = self._files.get(cell.id)
        if known is not None and known[0] == changed:
            return known[1]
        files = read_files(cell)
        if _settled(changed):
            self._files[cell.id] = changed, files
        return files


def _changed(cell: Cell) -> int | None:
    """When a cell's folder changed, in nanoseconds since 1970; None where it has none yet."""
    try:
        return cell.train.run_folder.stat().st_mtime_ns
    except OSError:
        return None


def _settled(changed: int) -> bool:
    return time.time() - changed / 1e9 > SETTLED_S


def _read(path: Path) -> dict[str, tuple[int, CellState]]:
    """What finished.json says; nothing where it is not there, not whole or of another version."""
    try:
        document = json.loads(path.read_bytes())
        if document["schema_version"] != SCHEMA_VERSION:
            return {}
        return {
            name: (changed, CellState(**{**state, "log": None if state["log"] is None else Path(state["log"])}))
            for name, (changed, state) in document["cells"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(path: Path, done: dict[str, tuple[int, CellState]]) -> None:
    """Keep it for the next process, if this one may write there and no other is just doing so."""
    # Not asdict, which copies each value with care and takes longer than all the rest.
    cells = {name: (changed, {key: getattr(state, key) for key in FIELDS}) for name, (changed, state) in done.items()}
    text = json.dumps({"schema_version": SCHEMA_VERSION, "cells": cells}, default=str)
    with suppress(StorageError), hold(path.with_suffix(".lock")) as lock:
        if lock is not None:
            write_bytes(path, text.encode())
