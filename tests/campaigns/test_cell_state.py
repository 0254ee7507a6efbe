import json
import math
import os
import socket
import subprocess

import psutil
import pytest

from mspipeline.campaigns.cell_state import cell_state, last_lines
from mspipeline.campaigns.cells import cells
from mspipeline.campaigns.schedulers import scheduler_named
from mspipeline.campaigns.sweep import Matrix, Sweep
from mspipeline.config import TrainingSettings
from mspipeline.parallel.lock import hold
from mspipeline.recipes.catalogue import load_recipe
from mspipeline.runs import RunPaths, write_rows
from mspipeline.tables.schema import CASES, EPOCHS

SLICES = load_recipe("slices2d")


def state_now(cell, executor="local"):
    return cell_state(cell, scheduler_named(executor))


@pytest.fixture
def cell(tmp_path):
    sweep = Sweep(name="x", matrix=Matrix(model=("unet2d",)), training=TrainingSettings(epochs=10))
    (cell,) = cells(sweep, tmp_path / "shards", tmp_path, SLICES)
    cell.train.run_folder.mkdir(parents=True)
    return cell


def write_attempt(cell, **changes):
    values = {
        "attempt": 2,
        "job_id": "7",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_created": psutil.Process().create_time(),
        "log": str(cell.train.run_folder / "log.out"),
        "started_utc": "2030-01-01T10:00:00+00:00",
        "exit_code": None,
    }
    (cell.train.run_folder / "cell.json").write_text(json.dumps({**values, **changes}))


def write_submission(cell, **changes):
    values = {
        "executor": "local",
        "job_id": "7",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_created": psutil.Process().create_time(),
        "logs": str(cell.train.run_folder),
        "log": str(cell.train.run_folder / "newer.out"),
        "submitted_utc": "2030-01-01T09:59:59+00:00",
    }
    (cell.train.run_folder / "submission.json").write_text(json.dumps({**values, **changes}))


def write_results(cell):
    (cell.train.run_folder / "run.json").write_text('{"status": "complete"}')
    write_rows(RunPaths(cell.train.run_folder).cases, [], CASES)


def row(epoch, subset, **values):
    return {**dict.fromkeys(EPOCHS.names), "epoch": epoch, "subset": subset, **values}


def ended_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_an_untouched_cell_is_pending(cell):
    state = state_now(cell)
    assert (state.state, state.message, state.epoch, state.epochs, state.attempt) == ("pending", "", 0, 10, None)


def test_a_cell_with_both_results_is_done(cell):
    write_attempt(cell, exit_code=0)
    write_results(cell)
    assert state_now(cell).state == "done"


def test_a_cell_trained_but_not_evaluated_is_not_done(cell):
    write_attempt(cell, exit_code=75)
    (cell.train.run_folder / "run.json").write_text('{"status": "complete"}')
    assert state_now(cell).state == "interrupted"


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (75, "interrupted"),
        (130, "interrupted"),
        (143, "interrupted"),
        (137, "interrupted"),
        (1, "failed"),
        (65, "failed"),
    ],
)
def test_an_exit_code_tells_a_stop_from_a_failure(cell, code, state):
    write_attempt(cell, exit_code=code)
    write_submission(cell, pid=ended_pid(), pid_created=1.0)
    assert (state_now(cell).state, state_now(cell).exit_code) == (state, code)


def test_an_attempt_without_an_end_runs_while_its_lock_is_held(cell):
    write_attempt(cell)
    with hold(cell.train.run_folder / "lock"):
        assert (state_now(cell).state, state_now(cell).message) == ("running", "training")
        (cell.train.run_folder / "run.json").write_text('{"status": "complete"}')
        assert state_now(cell).message == "evaluating"
    assert (state_now(cell).state, state_now(cell).message) == ("interrupted", "its job ended without a word")


def test_a_job_that_has_not_begun_is_starting_while_its_launcher_lives(cell):
    write_attempt(cell, exit_code=75, job_id="6")
    write_submission(cell, after_attempt=2)
    assert (state_now(cell).state, state_now(cell).message) == ("running", "starting")
    write_submission(cell, after_attempt=2, pid=ended_pid())
    assert (state_now(cell).state, state_now(cell).message) == ("interrupted", "its job ended before it began")


def test_two_hosts_whose_clocks_differ_are_told_by_job_and_count_and_not_by_time(cell):
    """The node is an hour behind: its attempt seems older than the job that it belongs to."""
    write_submission(cell, executor="slurm", pid=None, pid_created=None, submitted_utc="2030-01-01T11:00:00+00:00")
    write_attempt(cell, exit_code=65)
    assert (state_now(cell, "slurm").state, state_now(cell, "slurm").log) == (
        "failed",
        cell.train.run_folder / "log.out",
    )
    write_submission(cell, job_id="8", pid=ended_pid(), after_attempt=2, submitted_utc="2030-01-01T09:00:00+00:00")
    assert state_now(cell).message.startswith("its job ended before it began")
    assert state_now(cell).log == cell.train.run_folder / "newer.out"


def test_a_number_that_another_process_has_by_now_is_not_the_launcher(cell):
    write_submission(cell, pid_created=psutil.Process().create_time() - 3600)
    assert state_now(cell).state == "interrupted"


def test_an_attempt_on_another_host_runs_until_it_says_otherwise(cell):
    write_attempt(cell, host="elsewhere")
    write_submission(cell, host="elsewhere")
    assert state_now(cell).state == "running"
    write_attempt(cell, host="elsewhere", exit_code=75)
    assert state_now(cell).state == "interrupted"


def test_epoch_rows_tell_dice_speed_and_time_left(cell):
    write_attempt(cell)
    rows = [
        row(1, "train", seconds=4.0, dice=0.25, images_per_second=10.0),
        row(1, "validation", seconds=1.0, dice=0.5),
        row(2, "train", seconds=2.0, dice=0.75, images_per_second=20.0),
        row(2, "validation", seconds=1.0, dice=math.nan),
    ]
    write_rows(RunPaths(cell.train.run_folder).epochs, rows, EPOCHS)
    with hold(cell.train.run_folder / "lock"):
        state = state_now(cell)
    assert (state.epoch, state.train_dice, state.validation_dice, state.images_per_second) == (2, 0.75, None, 20.0)
    assert state.eta_s == 32.0  # 8 s for 2 epochs, 8 epochs to go
    assert state_now(cell).eta_s is None  # it does not run any more


@pytest.mark.parametrize("name", ["cell.json", "submission.json", "epochs.arrow"])
def test_a_file_that_cannot_be_read_is_the_cells_fault_alone(cell, name):
    (cell.train.run_folder / name).write_text("{")
    state = state_now(cell)
    assert state.state == "failed"
    assert name in state.message


def test_the_last_words_are_those_of_the_cells_own_programs(cell, tmp_path):
    log = cell.train.run_folder / "log.out"
    log.write_text("submitit INFO (x) - Starting\nepoch 1\nerror: no disk\n\nsubmitit INFO (x) - Exiting\n")
    write_attempt(cell, exit_code=74)
    assert last_lines(log, 2) == ["epoch 1", "error: no disk"]
    assert (state_now(cell).message, state_now(cell).log) == ("no space, or no leave to write: error: no disk", log)
    assert last_lines(tmp_path / "none", 1) == []
