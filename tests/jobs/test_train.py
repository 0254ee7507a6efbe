from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from mspipeline.config import ModelSettings, TrainingSettings, TrainJob
from mspipeline.errors import ConfigError, Interrupted, Preempted, RunFolderError, ShapeError, ShardError, SuiteError
from mspipeline.jobs.work.train import train
from mspipeline.models.from_file import model_settings
from mspipeline.runs import RunPaths, RunRecord, read_record, read_rows
from mspipeline.shards.manifest import load_manifest
from mspipeline.tables.schema import EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import EVENTS, Identity
from mspipeline.telemetry.shard import read_stream
from mspipeline.training.checkpoint import read_checkpoint
from mspipeline.transforms.registry import TRANSFORMS

PLUGINS = Path(__file__).parents[1] / "plugins"

pytestmark = pytest.mark.usefixtures("backend_needed")

NARROW_UNET = ModelSettings(name="unet2d", arguments={"base_width": 2})


class Recorder:
    """Observer that keeps what it saw, and stops the training after some steps."""

    def __init__(self, stop_after: int | None = None, error: type[SuiteError] = Preempted) -> None:
        self.passes: list[tuple[int, str, int]] = []
        self.epochs: list[int] = []
        self._steps = 0
        self._stop_after, self._error = stop_after, error

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        self.passes.append((epoch, subset, step))

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        self._steps += 1

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        self.epochs.append(epoch)

    def stop(self) -> SuiteError | None:
        return self._error("enough") if self._steps == self._stop_after else None


def run(job: TrainJob, recorder: Recorder | None = None, *, restart_count: int = 0) -> RunRecord:
    recorder = recorder or Recorder()
    with EventWriter(None, Identity("run")) as events:
        return train(job, events=events, observer=recorder, stop=recorder.stop, restart_count=restart_count)


def rows_of(job: TrainJob) -> list[dict[str, Any]]:
    rows = read_rows(RunPaths(job.run_folder).epochs, EPOCHS).to_pylist()
    timing = ("time_utc", "seconds", "images_per_second", "restart_count")
    return [{key: value for key, value in row.items() if key not in timing} for row in rows]


def with_(job: TrainJob, folder: Path | None = None, **training: Any) -> TrainJob:
    settings = TrainingSettings(**{**job.training.model_dump(), **training})
    return job.model_copy(update={"training": settings, "run_folder": folder or job.run_folder})


def test_a_training_leaves_record_rows_and_checkpoints(trained_run: TrainJob) -> None:
    paths = RunPaths(trained_run.run_folder)
    record = read_record(paths)
    assert (record.status, record.epochs, record.monitor) == ("complete", 2, "validation_dice")
    assert record.best_epoch in (1, 2)
    assert (record.optimizer, record.learning_rate, record.batch_size) == ("adam", 1e-2, 5)
    rows = read_rows(paths.epochs, EPOCHS).to_pylist()
    assert [(row["epoch"], row["subset"]) for row in rows] == [
        (1, "train"), (1, "validation"), (2, "train"), (2, "validation"),
    ]  # fmt: skip
    assert {row["images"] for row in rows if row["subset"] == "train"} == {2 * 16}
    assert rows[-1]["steps_total"] == 2 * math.ceil(32 / 5)
    assert paths.epochs.with_suffix(".csv").read_text().count("\n") == 1 + 4
    assert not list(paths.root.rglob("*.partial"))


def test_one_seed_gives_one_result_and_another_seed_another(
    trained_run: TrainJob, train_job: TrainJob, tmp_path: Path
) -> None:
    other = train_job.model_copy(update={"run_folder": tmp_path / "other", "seed": 1})
    records = [read_record(RunPaths(trained_run.run_folder)), run(train_job), run(other)]
    assert records[0].run_id == records[1].run_id != records[2].run_id
    assert rows_of(train_job) == rows_of(trained_run)
    assert rows_of(other)[0]["loss"] != rows_of(trained_run)[0]["loss"]


# Two epochs are 7 training and 4 validation steps each: stopped in the first epoch, and in its validation.
@pytest.mark.parametrize("stop_after", [3, 9])
def test_a_stopped_training_goes_on_exactly(trained_run: TrainJob, train_job: TrainJob, stop_after: int) -> None:
    with pytest.raises(Preempted):
        run(train_job, Recorder(stop_after))
    assert read_record(RunPaths(train_job.run_folder)).status == "interrupted"
    recorder = Recorder()
    assert run(train_job, recorder, restart_count=1).status == "complete"
    assert recorder.epochs == ([1, 2] if stop_after < 11 else [2])
    assert rows_of(train_job) == rows_of(trained_run)
    stopped, expected = (read_checkpoint(RunPaths(job.run_folder).last) for job in (train_job, trained_run))
    assert all(np.array_equal(stopped.weights[key], expected.weights[key]) for key in expected.weights)
    assert all(np.array_equal(stopped.state[key], expected.state[key]) for key in expected.state)


@pytest.mark.parametrize("stop_after", [3, 13])  # in the first epoch, in the second
def test_a_stopped_training_draws_its_transforms_as_if_it_had_not_been_stopped(
    train_job: TrainJob, tmp_path: Path, stop_after: int
) -> None:
    small = ModelSettings(**model_settings(f"{PLUGINS / 'network.py'}:one_convolution", {}))  # quickly compiled
    every = [{"name": name, "probability": 0.5} for name in TRANSFORMS.built_in]
    job = with_(train_job.model_copy(update={"model": small}), recipe={"transforms": every})
    whole = job.model_copy(update={"run_folder": tmp_path / "whole"})
    assert run(whole).status == "complete"
    with pytest.raises(Preempted):
        run(job, Recorder(stop_after))
    assert run(job, restart_count=1).status == "complete"
    assert rows_of(job) == rows_of(whole)
    stopped, expected = (read_checkpoint(RunPaths(each.run_folder).last) for each in (job, whole))
    assert all(np.array_equal(stopped.weights[key], expected.weights[key]) for key in expected.weights)
    plain = with_(job, tmp_path / "plain", recipe={})
    assert run(plain).run_id != read_record(RunPaths(whole.run_folder)).run_id
    assert rows_of(plain)[0]["loss"] != rows_of(whole)[0]["loss"]


def test_a_complete_training_is_left_as_it_is(trained_run: TrainJob) -> None:
    written = RunPaths(trained_run.run_folder).last.stat().st_mtime_ns
    recorder = Recorder()
    assert run(trained_run, recorder).status == "complete"
    assert recorder.passes == []
    assert RunPaths(trained_run.run_folder).last.stat().st_mtime_ns == written


@pytest.mark.parametrize(("threshold", "to"), [(0.999999, "nothing"), (1e-30, "everything")])
def test_a_training_that_ends_predicting_one_thing_is_named_in_a_line_and_in_its_record(
    train_job: TrainJob, capfd: pytest.CaptureFixture[str], threshold: float, to: str
) -> None:
    record = run(with_(train_job, threshold=threshold, epochs=3))
    assert (record.collapsed, record.collapsed_to, record.collapsed_epoch) == (True, to, 1)
    assert read_record(RunPaths(train_job.run_folder)) == record
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert f"the training has collapsed: since epoch 1 it predicts {to}; lower learning_rate" in line


def test_a_training_of_which_nothing_bad_is_known_is_not_collapsed(trained_run: TrainJob) -> None:
    record = read_record(RunPaths(trained_run.run_folder))
    assert (record.collapsed, record.collapsed_to, record.collapsed_epoch) == (False, None, None)


def test_the_best_epoch_is_that_of_the_best_validation_dice(trained_run: TrainJob) -> None:
    record = read_record(RunPaths(trained_run.run_folder))
    dice = [row["dice"] for row in rows_of(trained_run) if row["subset"] == "validation"]
    assert record.best_epoch == 1 + dice.index(max(dice))


def test_another_run_in_the_folder_is_refused(trained_run: TrainJob) -> None:
    with pytest.raises(RunFolderError, match="of other data or settings"):
        run(with_(trained_run, learning_rate=0.5))


def test_a_loss_that_is_not_a_number_ends_the_training_in_one_line(train_job: TrainJob) -> None:
    job = with_(train_job, loss="bce", learning_rate=1e30, epochs=50)
    with pytest.raises(SuiteError, match="training diverged: lower `learning_rate`"):
        run(job)
    assert read_record(RunPaths(job.run_folder)).status == "failed"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": {"name": "unet2"}}, ConfigError, "did you mean 'unet2d'"),
        ({"backend": "tensorflo"}, ConfigError, "did you mean 'tensorflow'"),
        ({"shards": "/nowhere"}, ShardError, "mspipeline prepare"),
        ({"training": {"monitor": "validation_dice"}}, None, ""),
    ],
)
def test_bad_jobs_are_answered_before_anything_is_written(
    train_job: TrainJob, change: dict[str, Any], error: type[SuiteError] | None, words: str
) -> None:
    job = TrainJob.model_validate({**train_job.model_dump(), **change})
    if error is None:
        assert run(with_(job, epochs=1)).monitor == "validation_dice"
        return
    with pytest.raises(error, match=words):
        run(job)
    assert not job.run_folder.exists()


def test_images_that_the_network_cannot_take_are_answered(
    small_dataset: Path, train_job: TrainJob, tmp_path: Path
) -> None:
    from mspipeline.config import PrepareJob
    from mspipeline.jobs.work.prepare import prepare

    prepare(PrepareJob(dataset=small_dataset, output=tmp_path / "odd"), recipe_overrides={"size": (40, 32, 16)})
    with pytest.raises(ShapeError, match="40x32 is not a multiple of 16"):
        run(train_job.model_copy(update={"model": NARROW_UNET, "shards": tmp_path / "odd"}))


@pytest.mark.parametrize(
    ("name", "words"), [("deeplabv3", "expected probabilities of a voxel"), ("nnunet3d", "takes 3-D images")]
)
def test_a_network_that_gives_no_probability_a_pixel_is_answered(train_job: TrainJob, name: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        run(train_job.model_copy(update={"model": ModelSettings(name=name)}))
    assert not train_job.run_folder.exists()


@pytest.mark.parametrize("subset", ["train", "validation"])
def test_a_number_in_a_mask_that_is_no_label_is_named_with_its_case(
    train_job: TrainJob, small_shards: Path, tmp_path: Path, subset: Literal["train", "validation"]
) -> None:
    shards = shutil.copytree(small_shards, tmp_path / "changed")
    entry = load_manifest(shards).subset(subset)[0]
    with h5py.File(shards / entry.file, "r+") as file:
        file["mask"][3, :2, :2] = 3
    with pytest.raises(ShardError, match=rf"{entry.case}.*: 4 mask voxels hold 3, expected 0 \(background\), 1 \(les"):
        run(train_job.model_copy(update={"shards": shards}))
    assert read_record(RunPaths(train_job.run_folder)).status == "failed"


@pytest.mark.long
def test_the_double_unet_trains(train_job: TrainJob) -> None:
    model = ModelSettings(name="double_unet", arguments={"base_width": 16})
    job = with_(train_job.model_copy(update={"model": model}), epochs=3)
    assert run(job).status == "complete"
    losses = [row["loss"] for row in rows_of(job) if row["subset"] == "train"]
    assert losses[-1] < losses[0]


def start(job: TrainJob, folder: Path, *, supervised: bool) -> subprocess.Popen[str]:
    config = folder / "train.json"
    config.write_text(json.dumps(job.model_dump(mode="json")))
    command = [sys.executable, "-m", "mspipeline.jobs", *(["supervise"] if supervised else []), "train", str(config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})


@pytest.fixture(scope="module")
def longer_run(trained_run: TrainJob) -> TrainJob:
    """Long enough to be hit in the middle. Read only."""
    longer = with_(trained_run, trained_run.run_folder.parent / "longer", epochs=20)
    job = longer.model_copy(update={"model": NARROW_UNET})
    run(job)
    return job


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, Interrupted.exit_code, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR2, 75, marks=pytest.mark.long),
    ],
)
def test_a_signal_saves_the_state_and_the_next_run_ends_as_if_there_had_been_none(
    longer_run: TrainJob, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    job = with_(longer_run, tmp_path / "run")
    process = start(job, tmp_path, supervised=True)
    deadline = time.monotonic() + 60
    while not RunPaths(job.run_folder).last.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.strip().splitlines()[-1].startswith(f"error: stopped by {number.name}, state saved")
    assert read_record(RunPaths(job.run_folder)).status == "interrupted"
    again = start(job, tmp_path, supervised=True)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert rows_of(job) == rows_of(longer_run)
    attempts = RunPaths(job.run_folder).attempts("train")
    assert [paths.attempt for paths in attempts] == [0, 1]
    phases = read_stream(attempts[1].events, EVENTS)["phase"].to_pylist()
    assert {"setup", "train", "validation", "checkpoint"} <= set(phases)
