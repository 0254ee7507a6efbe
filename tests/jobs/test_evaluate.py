"""Scores case by case, compared with what can be computed from the maps that `predict` writes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest

from mspipeline.config import EvaluateJob, PredictJob, PrepareJob, SplitSettings, TrainJob
from mspipeline.errors import Interrupted, RunFolderError, ShardError, SuiteError, UsageError
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.predict import predict
from mspipeline.jobs.work.prepare import prepare
from mspipeline.runs import RunPaths, read_record, read_rows, write_record, write_rows
from mspipeline.shards.manifest import Manifest, load_manifest, write_manifest
from mspipeline.tables.schema import CASES, LESIONS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

pytestmark = pytest.mark.usefixtures("backend_needed")
Rows = list[dict[str, Any]]


@pytest.fixture
def run_folder(trained_run: TrainJob, tmp_path: Path) -> Path:
    """A finished run of the test's own, not evaluated yet."""
    return shutil.copytree(trained_run.run_folder, tmp_path / "finished")


@pytest.fixture
def manifest(small_shards: Path) -> Manifest:
    return load_manifest(small_shards)


def score(run_folder: Path, shards: Path, *, stop: Any = lambda: None, **keys: Any) -> Rows:
    job = EvaluateJob(run_folder=run_folder, shards=shards, threads=2, **keys)
    with EventWriter(None, Identity("")) as events:
        return evaluate(job, events=events, stop=stop)


def stored(run_folder: Path) -> Rows:
    return read_rows(RunPaths(run_folder).cases, CASES).to_pylist()


def set_threshold(run_folder: Path, threshold: float) -> None:
    paths = RunPaths(run_folder)
    write_record(paths, read_record(paths).model_copy(update={"threshold": threshold}))


def middling_threshold(run_folder: Path, dataset: Path, maps: Path) -> None:
    """Make the threshold one that some voxels reach and others do not, so that every count has something to count."""
    with EventWriter(None, Identity("")) as events:
        job = PredictJob(run_folder=run_folder, dataset=dataset, output=maps, threads=2)
        done = predict(job, events=events, stop=lambda: None)
    values = np.concatenate([nib.nifti1.load(each.probability).get_fdata().ravel() for each in done])
    set_threshold(run_folder, float(np.quantile(values[values > 0], 0.9)))


def test_scores_are_those_of_the_written_maps_beside_the_truth_voxel_by_voxel(
    run_folder: Path, small_shards: Path, small_dataset: Path, tmp_path: Path
) -> None:
    middling_threshold(run_folder, small_dataset, tmp_path / "first")
    rows = score(run_folder, small_shards, subsets=("train", "validation", "test"))
    job = PredictJob(run_folder=run_folder, dataset=small_dataset, output=tmp_path / "maps", threads=2)
    with EventWriter(None, Identity("")) as events:
        maps = {each.case: each for each in predict(job, events=events, stop=lambda: None)}
    assert {row["case"] for row in rows} == set(maps) == {"sub-01", "sub-02", "sub-03", "sub-04"}
    for row in rows:
        case = row["case"]
        truth_file = small_dataset / f"derivatives/lesions/{case}/anat/{case}_label-lesion_mask.nii.gz"
        truth, found = (np.asarray(nib.nifti1.load(file).dataobj) == 1 for file in (truth_file, maps[case].mask))
        voxel_ml = 6.0 * 6.0 * 9.375 / 1000  # the phantom's 192 x 192 x 150 mm in 32 x 32 x 16 voxels
        both, either = int((truth & found).sum()), int((truth | found).sum())
        assert found.any()
        assert truth.any()
        assert row["true_positive"] == both
        assert row["false_positive"] == int((found & ~truth).sum())
        assert row["false_negative"] == int((truth & ~found).sum())
        assert row["true_negative"] == truth.size - either
        assert row["dice"] == pytest.approx(2 * both / (int(truth.sum()) + int(found.sum())), abs=1e-12)
        assert row["iou"] == pytest.approx(both / either, abs=1e-12)
        assert row["precision"] == pytest.approx(both / int(found.sum()), abs=1e-12)
        assert row["recall"] == pytest.approx(both / int(truth.sum()), abs=1e-12)
        assert row["truth_ml"] == pytest.approx(int(truth.sum()) * voxel_ml)
        assert row["prediction_ml"] == pytest.approx(int(found.sum()) * voxel_ml)
        assert maps[case].volumes_ml["lesion"] == pytest.approx(row["prediction_ml"])


def test_each_lesion_has_a_row_and_their_sizes_add_up_to_the_case(
    run_folder: Path, small_shards: Path, small_dataset: Path, tmp_path: Path
) -> None:
    middling_threshold(run_folder, small_dataset, tmp_path / "first")
    rows = score(run_folder, small_shards, subsets=("train", "test"))
    lesions = read_rows(RunPaths(run_folder).lesions, LESIONS).to_pylist()
    for row in rows:
        for mask, count, missed in (
            ("truth", "truth_lesions_6", "false_negative"),
            ("prediction", "predicted_lesions_6", "false_positive"),
        ):
            mine = [each for each in lesions if (each["case"], each["mask"]) == (row["case"], mask)]
            assert len(mine) == row[count] > 0
            assert sum(each["size_vox"] for each in mine) == row["true_positive"] + row[missed]
            assert sum(each["overlap_vox"] for each in mine) == row["true_positive"]
    again = score(run_folder, small_shards, subsets=("test",))  # its rows replace those of its case, no others
    assert len(again) == 1
    assert read_rows(RunPaths(run_folder).lesions, LESIONS).to_pylist() == lesions


def test_without_subsets_the_held_out_cases_are_scored(
    run_folder: Path, small_shards: Path, manifest: Manifest
) -> None:
    steps: list[tuple[str, int, int]] = []
    job = EvaluateJob(run_folder=run_folder, shards=small_shards, threads=2)
    with EventWriter(None, Identity("")) as events:
        evaluate(job, events=events, stop=lambda: None, report=lambda *step: steps.append(step))
    (validation,), (test,) = manifest.split.validation, manifest.split.test
    assert steps == [(validation, 1, 2), (test, 2, 2)]
    rows = stored(run_folder)
    assert {(row["case"], row["subset"]) for row in rows} == {(validation, "validation"), (test, "test")}
    assert {(row["checkpoint"], row["grid"], row["threshold"]) for row in rows} == {("best", "scan", 0.5)}
    assert {row["run_id"] for row in rows} == {read_record(RunPaths(run_folder)).run_id}


def test_a_chosen_subset_alone_is_scored(run_folder: Path, small_shards: Path, manifest: Manifest) -> None:
    rows = score(run_folder, small_shards, subsets=("train",))
    assert [row["case"] for row in rows] == list(manifest.split.train)
    assert {row["subset"] for row in stored(run_folder)} == {"train"}


def test_rows_of_other_cases_are_kept_and_those_of_the_same_replaced(
    run_folder: Path, small_shards: Path, manifest: Manifest
) -> None:
    score(run_folder, small_shards)
    before = {row["case"]: row for row in stored(run_folder)}
    (held,) = manifest.split.test
    score(run_folder, small_shards, subsets=("train", "test"))
    after = {row["case"]: row for row in stored(run_folder)}
    assert list(after) == ["sub-01", "sub-02", "sub-03", "sub-04"]
    (kept,) = manifest.split.validation
    assert after[kept] == before[kept]
    assert after[held]["time_utc"] > before[held]["time_utc"]
    assert after[held]["dice"] == before[held]["dice"]


def test_rows_of_one_checkpoint_leave_those_of_the_other(
    run_folder: Path, small_shards: Path, manifest: Manifest
) -> None:
    score(run_folder, small_shards)
    of_best, lesions = stored(run_folder), read_rows(RunPaths(run_folder).lesions, LESIONS).to_pylist()
    score(run_folder, small_shards, subsets=("test", "train"), checkpoint="last")
    rows = stored(run_folder)
    assert [row for row in rows if row["checkpoint"] == "best"] == of_best
    of_last = {(row["case"], row["subset"]) for row in rows if row["checkpoint"] == "last"}
    assert of_last == {(case, part) for part in ("test", "train") for case in getattr(manifest.split, part)}
    kept = read_rows(RunPaths(run_folder).lesions, LESIONS).to_pylist()
    assert [each for each in kept if each["checkpoint"] == "best"] == lesions
    again = score(run_folder, small_shards, subsets=("test",), checkpoint="last")  # replaces its own row alone
    places = [(row["case"], row["checkpoint"]) for row in stored(run_folder)]
    assert len(places) == len(set(places)) == len(rows)
    assert stored(run_folder)[places.index((again[0]["case"], "last"))]["time_utc"] == again[0]["time_utc"]


def test_a_row_has_its_device_and_what_its_truth_was(
    run_folder: Path, small_shards: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """As where `prepare --resample-to` put a mask of another grid on the scan's."""
    shards = shutil.copytree(small_shards, tmp_path / "resampled")
    (moved,), (drawn,) = manifest.split.test, manifest.split.validation
    write_manifest(shards, manifest.model_copy(update={"resampled": {moved: {"lesions": "headers"}}}))
    rows = {row["case"]: row for row in score(run_folder, shards, device="cpu")}
    assert {case: row["truth"] for case, row in rows.items()} == {moved: "headers", drawn: "as drawn"}
    assert {row["device"] for row in rows.values()} == {"CPU"}
    assert {row["truth"] for row in stored(run_folder)} == {"headers", "as drawn"}


def test_rows_from_before_these_columns_are_kept_with_nulls(run_folder: Path, small_shards: Path) -> None:
    later = ("device", "truth")
    before = pa.schema([field for field in CASES if field.name not in later], metadata=CASES.metadata)
    rows = score(run_folder, small_shards)
    old = [{name: value for name, value in row.items() if name not in later} for row in rows]
    write_rows(RunPaths(run_folder).cases, old, before)
    score(run_folder, small_shards, subsets=("test",))
    assert [(row["subset"], row["truth"]) for row in sorted(stored(run_folder), key=lambda row: row["subset"])] == [
        ("test", "as drawn"),
        ("validation", None),
    ]


def test_best_and_last_are_the_files_of_these_names(run_folder: Path, small_shards: Path) -> None:
    paths = RunPaths(run_folder)
    last = score(run_folder, small_shards, checkpoint="last")
    shutil.copyfile(paths.last, paths.best)
    assert [row["dice"] for row in score(run_folder, small_shards)] == pytest.approx(
        [row["dice"] for row in last], nan_ok=True
    )
    paths.best.unlink()
    with pytest.raises(RunFolderError, match=r"best\.h5: no such checkpoint; train this run first"):
        score(run_folder, small_shards)
    assert score(run_folder, small_shards, checkpoint="last")


def test_nothing_found_is_dice_0_where_there_are_lesions_and_undefined_in_a_healthy_case(
    run_folder: Path, small_dataset: Path, tmp_path: Path
) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "scans")
    mask = dataset / "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
    image = nib.nifti1.load(mask)
    nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_filename(mask)
    shards = tmp_path / "shards"
    split = tmp_path / "split.toml"
    split.write_text('train = ["sub-03", "sub-04"]\ntest = ["sub-01", "sub-02"]\n')
    job = PrepareJob(dataset=dataset, output=shards, split=SplitSettings(file=split))
    manifest = prepare(job, recipe_overrides={"size": (32, 32, 16)})
    paths = RunPaths(run_folder)
    ours = {name: getattr(manifest, name) for name in ("dataset_hash", "split_hash")}
    write_record(paths, read_record(paths).model_copy(update={**ours, "threshold": 0.999999}))
    healthy, ill = score(run_folder, shards)
    assert (healthy["case"], ill["case"]) == ("sub-01", "sub-02")
    assert all(math.isnan(healthy[name]) for name in ("dice", "iou", "precision", "recall", "volume_error_percent"))
    assert (healthy["truth_ml"], healthy["prediction_ml"], healthy["specificity"]) == (0.0, 0.0, 1.0)
    assert (ill["dice"], ill["recall"], ill["volume_error_percent"]) == (0.0, 0.0, -100.0)
    assert math.isnan(ill["precision"])


@pytest.mark.parametrize(
    ("overrides", "split_seed", "what"),
    [({"modalities": ["T1w"]}, 0, "dataset"), ({"mask_order": 1}, 0, "recipe"), ({}, 1, "split")],
)
def test_shards_that_the_run_was_not_trained_on_are_refused(
    run_folder: Path, small_dataset: Path, tmp_path: Path, overrides: dict[str, Any], split_seed: int, what: str
) -> None:
    job = PrepareJob(dataset=small_dataset, output=tmp_path / "others", split=SplitSettings(seed=split_seed))
    prepare(job, recipe_overrides={"size": (32, 32, 16), **overrides})
    with pytest.raises(RunFolderError, match=f"was trained on another {what}.*name the shards it was trained on"):
        score(run_folder, tmp_path / "others")
    assert not RunPaths(run_folder).cases.exists()


def test_a_subset_without_cases_is_refused_with_those_that_have_some(
    run_folder: Path, small_dataset: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.toml"
    split.write_text('train = ["sub-01", "sub-02", "sub-03", "sub-04"]\n')
    job = PrepareJob(dataset=small_dataset, output=tmp_path / "shards", split=SplitSettings(file=split))
    manifest = prepare(job, recipe_overrides={"size": (32, 32, 16)})
    paths = RunPaths(run_folder)
    write_record(paths, read_record(paths).model_copy(update={"split_hash": manifest.split_hash}))
    with pytest.raises(UsageError, match=r"the split holds out no cases.*`--subset train`"):
        score(run_folder, tmp_path / "shards")
    with pytest.raises(UsageError, match="no case is in test; subsets with cases: train"):
        score(run_folder, tmp_path / "shards", subsets=("test",))


def test_an_interruption_leaves_the_earlier_rows(run_folder: Path, small_shards: Path) -> None:
    score(run_folder, small_shards)
    before = stored(run_folder)
    asked: list[SuiteError | None] = [None, Interrupted("enough")]
    with pytest.raises(Interrupted):
        score(run_folder, small_shards, subsets=("train", "validation", "test"), stop=lambda: asked.pop(0))
    assert asked == []
    assert stored(run_folder) == before


def test_a_truth_that_was_changed_since_prepare_is_not_scored(
    run_folder: Path, small_shards: Path, manifest: Manifest, tmp_path: Path
) -> None:
    shards = shutil.copytree(small_shards, tmp_path / "changed")
    entry = manifest.subset("test")[0]
    with h5py.File(shards / entry.file, "r+") as file:
        file["scan_mask"][...] = 1  # a valid HDF5 file, its chunks' checksums right
    with pytest.raises(ShardError, match=rf"{entry.file} has changed since it was written"):
        score(run_folder, shards, subsets=("test",))
    assert score(run_folder, shards, subsets=("train",))
