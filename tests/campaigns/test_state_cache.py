"""mspipeline.campaigns.state_cache: what is read again, and what is not."""

import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mspipeline.campaigns import state_cache
from mspipeline.campaigns.cell_state import cell_state
from mspipeline.campaigns.cells import cells
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.state_cache import StateCache
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.files import write_json
from mspipeline.parallel.lock import hold
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.runs import RunPaths, write_rows
from mspipeline.tables.schema import CASES, EPOCHS

LOCAL = scheduler_named("local")


@pytest.fixture
def make_cells(tmp_path):
    def make(count):
        sweep = Sweep(
            name="x", matrix=Matrix(model=("unet2d",), seed=tuple(range(count))), training=TrainingSettings(epochs=2)
        )
        return cells(sweep, tmp_path / "shards", tmp_path, load_recipe("slices2d"))

    return make


def write_attempt(cell, exit_code, started="2030-01-01T10:00:00+00:00"):
    folder = cell.train.run_folder
    folder.mkdir(parents=True, exist_ok=True)
    values = {"attempt": 1, "job_id": "7", "host": socket.gethostname(), "pid": 1, "pid_created": 1.0}
    values |= {"node": "c1", "log": str(folder / "log.out"), "started_utc": started, "exit_code": exit_code}
    partial = folder / "cell.json.partial"
    partial.write_text(json.dumps(values))
    partial.replace(folder / "cell.json")


def finish(cell):
    paths = RunPaths(cell.train.run_folder)
    unknown = dict.fromkeys(EPOCHS.names)
    rows = [{**unknown, "epoch": epoch, "subset": "train", "seconds": 2.0, "dice": epoch / 4} for epoch in (1, 2)]
    write_rows(paths.epochs, rows, EPOCHS)
    write_rows(paths.cases, [], CASES)
    write_json(paths.record, {"status": "complete"})
    write_attempt(cell, 0)


def age(cell, seconds=3600):
    """Let a cell's folder be of long ago."""
    then = time.time() - seconds
    os.utime(cell.train.run_folder, (then, then))


watched: list[list[Path]] = []
"""Lists that the paths of opened files are put in, the last of them."""


def _watch_opens(event, arguments):
    if event == "open" and watched and isinstance(arguments[0], str | os.PathLike):
        watched[-1].append(Path(arguments[0]))


sys.addaudithook(_watch_opens)  # which cannot be taken away again


def test_a_second_look_reads_only_the_cells_whose_folder_has_changed(make_cells):
    one, other = make_cells(2)
    for cell in (one, other):
        write_attempt(cell, 75)
        age(cell)
    cache = StateCache(LOCAL)
    assert [state.state for state in cache.states([one, other])] == ["interrupted", "interrupted"]
    again: list[Path] = []
    watched.append(again)
    assert [state.state for state in cache.states([one, other])] == ["interrupted", "interrupted"]
    assert [path for path in again if path.name == "cell.json"] == []
    write_attempt(other, 65)
    assert [state.state for state in cache.states([one, other])] == ["interrupted", "failed"]
    watched.pop()
    assert {path.parent.name for path in again if path.name == "cell.json"} == {other.id}


def test_a_folder_that_changed_just_now_is_read_each_time(make_cells):
    (cell,) = make_cells(1)
    write_attempt(cell, 75)
    cache = StateCache(LOCAL)
    cache.state(cell)
    before = cell.train.run_folder.stat().st_mtime_ns
    write_attempt(cell, 65)
    os.utime(cell.train.run_folder, ns=(before, before))  # a file system whose clock ticks too rarely
    assert cache.state(cell).state == "failed"


def test_whether_an_attempt_lives_is_asked_each_time(make_cells):
    (cell,) = make_cells(1)
    write_attempt(cell, None)
    lock = cell.train.run_folder / "lock"
    lock.touch()
    age(cell)
    cache = StateCache(LOCAL)
    assert cache.state(cell).message == "its job ended without a word"
    with hold(lock):
        assert cache.state(cell).state == "running"
    assert cache.state(cell).state == "interrupted"


def test_the_states_are_those_that_a_reading_of_every_file_gives(make_cells):
    several = make_cells(5)
    finish(several[0])
    write_attempt(several[1], 65)
    write_attempt(several[2], 75)
    write_attempt(several[3], None)
    for cell in several[:4]:
        age(cell)
    cache = StateCache(LOCAL)
    for _ in range(2):
        assert cache.states(several) == [cell_state(cell, LOCAL) for cell in several]
    assert cache.state(several[0]) == replace(
        cell_state(several[0], LOCAL), state="done", epoch=2, train_dice=0.5, train_s=4.0, node="c1", restarts=1
    )


@pytest.fixture
def few(monkeypatch):
    """So few newly done cells are worth a file."""
    monkeypatch.setattr(state_cache, "KEEP_EVERY", 8)
    return 8


def test_cells_that_are_done_are_kept_for_the_next_process_and_read_when_they_change(make_cells, few, tmp_path):
    many = make_cells(few)
    for cell in many:
        finish(cell)
        age(cell)
    kept = tmp_path / "finished.json"
    first = StateCache(LOCAL, kept).states(many)
    assert kept.exists()
    again: list[Path] = []
    watched.append(again)
    assert StateCache(LOCAL, kept).states(many) == first
    assert [path for path in again if path.parent.parent.name == "cells"] == []
    watched.pop()

    RunPaths(many[3].train.run_folder).cases.unlink()
    (many[5].train.run_folder / "run.json").unlink()
    states = [state.state for state in StateCache(LOCAL, kept).states(many)]
    assert states == ["done", "done", "done", "failed", "done", "failed", "done", "done"]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 0, "cells": {}}', '{"schema_version": 1, "cells": 3}'])
def test_a_file_of_finished_cells_that_makes_no_sense_is_nothing(make_cells, tmp_path, text):
    (cell,) = make_cells(1)
    finish(cell)
    kept = tmp_path / "finished.json"
    kept.write_text(text)
    assert [state.state for state in StateCache(LOCAL, kept).states([cell])] == ["done"]


def test_a_folder_that_may_not_be_written_is_looked_at_all_the_same(make_cells, few, tmp_path):
    many = make_cells(few)
    for cell in many:
        finish(cell)
        age(cell)
    kept = tmp_path / "not" / "there" / "finished.json"
    kept.parent.parent.touch()  # a file where its folder should be
    assert {state.state for state in StateCache(LOCAL, kept).states(many)} == {"done"}
