"""A cascade trained on patches, stage after stage, stopped anywhere and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mspipeline.config import (
    CascadeTraining,
    EvaluateJob,
    ModelSettings,
    PrepareJob,
    SplitSettings,
    TrainingSettings,
    TrainJob,
)
from mspipeline.errors import ConfigError, Preempted, RunFolderError, ShapeError, SuiteError
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.prepare import prepare
from mspipeline.jobs.work.train import train
from mspipeline.recipes.patches3d.shard import PatchEntry, read_voxels
from mspipeline.runs import RunPaths, RunRecord, read_record, read_rows
from mspipeline.shards.manifest import entries_as, load_manifest
from mspipeline.tables.schema import CASES, EPOCHS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import EVENTS, Identity
from mspipeline.telemetry.shard import read_stream
from mspipeline.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.usefixtures("backend_needed")
EPOCHS_A_STAGE = 2


@pytest.fixture(scope="module")
def patch_shards(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of patches: 2 cases to train on, 1 each for validation and test. Read only."""
    folder = tmp_path_factory.mktemp("patches") / "shards"
    prepare(PrepareJob(dataset=small_dataset, output=folder, recipe="patches3d"))
    return folder


def cascade_job(shards: Path, folder: Path, **settings: Any) -> TrainJob:
    training: dict[str, Any] = {"epochs": EPOCHS_A_STAGE, "batch_size": 32, "learning_rate": 1e-2, "warmup_steps": 0}
    cascade = CascadeTraining(
        **{key: settings.pop(key) for key in list(settings) if key in CascadeTraining.model_fields}
    )
    return TrainJob(
        model=ModelSettings(name="cascade3d", arguments={"base_width": 2}),
        shards=shards,
        run_folder=folder / "run",
        threads=2,
        training=TrainingSettings(**{**training, **settings, "cascade": cascade}),
    )


class Recorder:
    """Observer that stops the training after the first step of one pass, (epoch, subset)."""

    def __init__(self, stop_in: tuple[int, str] | None = None) -> None:
        self._stop_in = stop_in
        self._pass: tuple[int, str] | None = None
        self._stepped = False

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        self._pass, self._stepped = (epoch, subset), False

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        self._stepped = True

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        pass

    def stop(self) -> SuiteError | None:
        return Preempted("enough") if self._stepped and self._pass == self._stop_in else None


def run(job: TrainJob, recorder: Recorder | None = None, telemetry: Path | None = None) -> RunRecord:
    recorder = recorder or Recorder()
    with EventWriter(telemetry, Identity("run")) as events:
        return train(job, events=events, observer=recorder, stop=recorder.stop)


def rows_of(job: TrainJob) -> list[dict[str, Any]]:
    rows = read_rows(RunPaths(job.run_folder).epochs, EPOCHS).to_pylist()
    timing = ("time_utc", "seconds", "images_per_second", "restart_count", "dice_slice_hard_smooth1")
    return [{k: v for k, v in row.items() if k not in (*timing, "dice_slice_soft_smooth1")} for row in rows]


def weights_of(job: TrainJob, stage: int) -> dict[Any, Any]:
    return dict(read_checkpoint(RunPaths(job.run_folder).stage(stage, "last")).weights)


@pytest.fixture(scope="module")
def trained(patch_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A cascade trained in one go. Read only."""
    job = cascade_job(patch_shards, tmp_path_factory.mktemp("cascade"))
    run(job, telemetry=job.run_folder / "events.arrows")
    return job


def test_one_command_trains_both_stages_and_their_epochs_count_on(trained: TrainJob) -> None:
    paths = RunPaths(trained.run_folder)
    record = read_record(paths)
    assert (record.status, record.epochs, record.monitor) == ("complete", 2 * EPOCHS_A_STAGE, "validation_loss")
    assert record.best_epoch in (3, 4)
    assert record.cascade is not None
    assert record.cascade.stages == 2
    rows = read_rows(paths.epochs, EPOCHS).to_pylist()
    assert [(row["epoch"], row["stage"], row["subset"]) for row in rows] == [
        (epoch, 1 + (epoch > 2), subset) for epoch in (1, 2, 3, 4) for subset in ("train", "validation")
    ]
    assert all(paths.stage(stage, kind).exists() for stage in (1, 2) for kind in ("best", "last"))
    events = read_stream(trained.run_folder / "events.arrows", EVENTS)
    assert events["phase"].to_pylist().count("mining") == 2  # its begin and its end


def test_stage_one_is_balanced_and_stage_two_has_only_what_stage_one_took_for_lesion(trained: TrainJob) -> None:
    manifest = load_manifest(trained.shards)
    cases = entries_as(PatchEntry, manifest.subset("train"))
    images = {
        row["stage"]: row["images"]
        for row in read_rows(RunPaths(trained.run_folder).epochs, EPOCHS).to_pylist()
        if row["subset"] == "train"
    }
    assert images[1] == 2 * sum(entry.lesion_voxels for entry in cases)
    hard = 0
    with h5py.File(RunPaths(trained.run_folder).scores(1)) as scores:
        assert set(scores) == {entry.case for entry in [*cases, *manifest.subset("validation")]}
        for entry in cases:
            voxels = read_voxels(trained.shards, entry)
            passed = int(((scores[entry.case][:] > 0.5) & (voxels.labels == 0)).sum())
            hard += min(passed, entry.lesion_voxels)
    assert images[2] == sum(entry.lesion_voxels for entry in cases) + hard


@pytest.mark.parametrize(
    "stop_in", [(1, "train"), (2, "mining"), (3, "train"), (4, "validation")], ids=lambda where: where[1]
)
def test_a_cascade_stopped_anywhere_goes_on_as_if_it_never_was(
    trained: TrainJob, patch_shards: Path, tmp_path: Path, stop_in: tuple[int, str]
) -> None:
    job = cascade_job(patch_shards, tmp_path)
    with pytest.raises(Preempted):
        run(job, Recorder(stop_in))
    assert read_record(RunPaths(job.run_folder)).status == "interrupted"
    run(job)
    assert rows_of(job) == rows_of(trained)
    for stage in (1, 2):
        ours, theirs = weights_of(job, stage), weights_of(trained, stage)
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_stages_as_jobs_of_their_own_give_the_run_of_one_job(
    trained: TrainJob, patch_shards: Path, tmp_path: Path
) -> None:
    job = cascade_job(patch_shards, tmp_path)
    with pytest.raises(RunFolderError, match="stage 1 is not trained to its end; train it before stage 2"):
        run(job.model_copy(update={"stage": 2}))
    assert run(job.model_copy(update={"stage": 1})).status == "interrupted"
    assert not RunPaths(job.run_folder).stage(2, "last").exists()
    assert run(job.model_copy(update={"stage": 2})).status == "complete"
    assert rows_of(job) == rows_of(trained)
    assert read_record(RunPaths(job.run_folder)).run_id == read_record(RunPaths(trained.run_folder)).run_id


def test_a_first_stage_that_collapsed_is_not_forgotten_when_the_second_is_trained(
    patch_shards: Path, tmp_path: Path
) -> None:
    """Of patches that all count as lesion; the second stage's epochs count on from the first's three."""
    record = run(cascade_job(patch_shards, tmp_path, epochs=3, threshold=1e-9, hard_above=0.0))
    assert record.epochs == 6
    assert (record.collapsed, record.collapsed_to, record.collapsed_epoch) == (True, "everything", 1)


def test_a_cascade_is_trained_with_adadelta_as_published(patch_shards: Path, tmp_path: Path) -> None:
    job = cascade_job(patch_shards, tmp_path, optimizer="adadelta", learning_rate=None, clip_norm=0)
    assert run(job).status == "complete"
    assert {row["learning_rate"] for row in rows_of(job)} == {1.0}
    state = read_checkpoint(RunPaths(job.run_folder).stage(2, "last")).state
    assert any("accumulated_delta" in key and values.any() for key, values in state.items())


def test_without_validation_cases_patches_are_held_out(small_dataset: Path, tmp_path: Path) -> None:
    split = SplitSettings(validation=0, test=0.5)
    prepare(PrepareJob(dataset=small_dataset, output=tmp_path / "shards", recipe="patches3d", split=split))
    job = cascade_job(tmp_path / "shards", tmp_path, stages=1, epochs=1)
    run(job)
    train, validation = read_rows(RunPaths(job.run_folder).epochs, EPOCHS).to_pylist()
    entries = entries_as(PatchEntry, load_manifest(tmp_path / "shards").subset("train"))
    assert train["images"] + validation["images"] == 2 * sum(entry.lesion_voxels for entry in entries)
    assert validation["images"] == pytest.approx(train["images"] / 3, abs=len(entries))


def test_a_cascade_is_scored_on_the_scans_own_grid(trained: TrainJob) -> None:
    job = EvaluateJob(run_folder=trained.run_folder, shards=trained.shards, subsets=("test",), threads=2)
    with EventWriter(None, Identity("")) as events:
        (row,) = evaluate(job, events=events, stop=lambda: None)
    (entry,) = entries_as(PatchEntry, load_manifest(trained.shards).subset("test"))
    assert row["true_positive"] + row["false_negative"] == entry.lesion_voxels
    voxels = row["true_positive"] + row["false_positive"] + row["false_negative"] + row["true_negative"]
    assert voxels == np.prod(entry.volume_shape)
    assert len(read_rows(RunPaths(trained.run_folder).cases, CASES)) == 1


def test_networks_and_losses_that_do_not_fit_patches_are_answered(patch_shards: Path, tmp_path: Path) -> None:
    job = cascade_job(patch_shards, tmp_path)
    with pytest.raises(ConfigError, match="loss dice does not fit a network of 2 outputs"):
        run(cascade_job(patch_shards, tmp_path, loss="dice"))
    with pytest.raises(ShapeError, match="expected probabilities of a patch"):
        run(job.model_copy(update={"model": ModelSettings(name="cascade3d_report_tf")}))
    with pytest.raises(ShapeError, match="takes 2-D images"):
        run(job.model_copy(update={"model": ModelSettings(name="unet2d")}))
    assert not job.run_folder.exists()
