"""Shards, runs and tables of before masks had label sets are still read, with the numbers that they had."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from mspipeline.collect.tables import collect
from mspipeline.config import EvaluateJob, PredictJob, PrepareJob, TrainJob
from mspipeline.errors import RunFolderError
from mspipeline.jobs.work.evaluate import evaluate
from mspipeline.jobs.work.predict import predict
from mspipeline.jobs.work.prepare import prepare
from mspipeline.jobs.work.train import train
from mspipeline.report.page import write_page
from mspipeline.report.summary import summarise
from mspipeline.report.tables import load_tables
from mspipeline.runs import RunPaths, read_record, read_rows
from mspipeline.shards.manifest import load_manifest, verify_shards
from mspipeline.tables.schema import CASES, LESIONS
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity
from tests.jobs.older_runs import unpack

UNET, CASCADE = "unet2d-tensorflow-s0-534debc8", "cascade3d-tensorflow-s0-103ee718"
SHARDS = {UNET: "slices", CASCADE: "patches"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it. Read only."""
    return unpack(tmp_path_factory.mktemp("0.1"))


def same(now: Any, then: Any) -> bool:
    """Equal, or both undefined."""
    return bool(now == then) or (isinstance(now, float) and math.isnan(now) and math.isnan(then))


@pytest.mark.parametrize("shards", ["slices", "patches"])
def test_prepare_keeps_the_shards_and_would_make_them_alike(old: Path, shards: str, tmp_path: Path) -> None:
    before = load_manifest(old / shards)
    verify_shards(old / shards, before)
    copy = shutil.copytree(old / shards, tmp_path / shards)
    recipe = {key: value for key, value in before.recipe.items() if key in ("size", "patch_size", "modalities")}
    job = PrepareJob(dataset=old / "dataset", recipe="slices2d" if shards == "slices" else "patches3d", output=copy)
    assert prepare(job, recipe_overrides=recipe) == before
    verify_shards(copy, before)
    job = job.model_copy(update={"output": tmp_path / "new"})
    again = prepare(job, recipe_overrides=recipe)
    assert (again.dataset_hash, again.recipe_hash, again.split_hash) == (
        before.dataset_hash,
        before.recipe_hash,
        before.split_hash,
    )
    for entry in before.cases:
        with h5py.File(old / shards / entry.file) as then, h5py.File(job.output / entry.file) as now:
            assert set(now) == set(then)
            assert set(now.attrs) == set(then.attrs)
            for name, data in then.items():
                assert now[name].dtype == data.dtype
                assert np.array_equal(now[name][...], data[...]), name


def test_a_run_of_a_newer_version_is_refused_in_one_line_whatever_else_it_has(old: Path, tmp_path: Path) -> None:
    document = json.loads((old / "runs" / UNET / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**document, "schema_version": 2, "key_of_tomorrow": 1}))
    with pytest.raises(RunFolderError) as refused:
        read_record(RunPaths(tmp_path))
    words = "schema version 2, expected at most 1; it is of a newer version of the suite: use that one"
    assert str(refused.value) == f"{tmp_path / 'run.json'}: {words}"


@pytest.mark.parametrize("run_id", [UNET, CASCADE])
def test_rows_are_read_as_the_text_beside_them_has_them(old: Path, run_id: str) -> None:
    paths = RunPaths(old / "runs" / run_id)
    rows = read_rows(paths.cases, CASES).to_pylist()
    with paths.cases.with_suffix(".csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == [line["case"] for line in written]
    assert {(row["label"], row["united"]) for row in rows} == {("lesion", None)}
    for row, line in zip(rows, written, strict=True):
        for name in ("dice", "true_negative", "truth_lesions_6", "msseg2016_f1", "hd95_mm", "prediction_ml"):
            assert str(row[name]) == line[name], name
    lesions = read_rows(paths.lesions, LESIONS).to_pylist()
    assert {row["label"] for row in lesions} == {"lesion"}


def test_a_training_that_was_complete_is_left_as_it_is(old: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(old / "runs" / UNET, tmp_path / UNET)
    job = TrainJob.model_validate(json.loads((folder / "jobs" / "train.json").read_text()))
    job = job.model_copy(update={"run_folder": folder})
    with EventWriter(None, Identity("")) as events:
        record = train(job, events=events, observer=None, stop=lambda: None)  # type: ignore[arg-type]
    assert record == read_record(RunPaths(old / "runs" / UNET))
    assert (record.run_id, record.best_epoch) == (UNET, 1)


@pytest.mark.usefixtures("backend_needed")
@pytest.mark.parametrize("run_id", [UNET, CASCADE])
def test_evaluate_gives_the_scores_that_it_gave(old: Path, run_id: str, tmp_path: Path) -> None:
    folder = shutil.copytree(old / "runs" / run_id, tmp_path / run_id)
    paths = RunPaths(folder)
    before = {row["case"]: row for row in read_rows(paths.cases, CASES).to_pylist()}
    job = EvaluateJob(run_folder=folder, shards=old / SHARDS[run_id], subsets=("test",), device="cpu", threads=2)
    with EventWriter(None, Identity("")) as events:
        (row,) = evaluate(job, events=events, stop=lambda: None)
    assert row["case"] == "sub-03"
    for name in ("dice", "roc_auc", "truth_ml", "prediction_ml", "accuracy"):  # near, whatever the processor
        assert row[name] == pytest.approx(before["sub-03"][name], rel=0.02, abs=1e-4), name
    assert row["truth_lesions_6"] == before["sub-03"]["truth_lesions_6"]
    after = {row["case"]: row for row in read_rows(paths.cases, CASES).to_pylist()}
    assert after.keys() == before.keys()
    for case in before.keys() - {"sub-03"}:
        assert all(same(after[case][name], value) for name, value in before[case].items()), case
    lesions = read_rows(paths.lesions, LESIONS).to_pylist()
    assert sum(row["mask"] == "truth" and row["case"] == "sub-03" for row in lesions) == row["truth_lesions_6"]


@pytest.mark.usefixtures("backend_needed")
@pytest.mark.parametrize("run_id", [UNET, CASCADE])
def test_predict_gives_the_maps_that_it_gave(old: Path, run_id: str, tmp_path: Path) -> None:
    run_folder = shutil.copytree(old / "runs" / run_id, tmp_path / run_id)
    job = PredictJob(run_folder=run_folder, dataset=old / "dataset", output=tmp_path / "maps", device="cpu", threads=2)
    with EventWriter(None, Identity("")) as events:
        predict(job, events=events, stop=lambda: None)
    for kind, tolerance in (("probseg", 1e-4), ("mask", 0)):
        name = Path(f"mspipeline-{run_id}", "sub-03", "anat", f"sub-03_label-lesion_{kind}.nii.gz")
        now, then = (nib.nifti1.load(folder / name) for folder in (tmp_path / "maps", old / "derivatives"))
        assert now.get_data_dtype() == then.get_data_dtype()
        assert np.array_equal(now.affine, then.affine)
        differs = np.abs(now.get_fdata() - then.get_fdata()) > tolerance
        assert differs.mean() < 0.001, kind  # a voxel at the threshold may fall on its other side elsewhere


def test_collect_makes_the_tables_that_it_made(old: Path, tmp_path: Path) -> None:
    collected = collect(old / "runs", tmp_path / "tables")
    assert not collected.problems
    for name in ("cases", "lesions", "epochs"):
        then = pq.read_table(old / "tables" / f"{name}.parquet").to_pylist()
        now = pq.read_table(tmp_path / "tables" / f"{name}.parquet").to_pylist()
        assert len(now) == len(then) > 0
        for row, before in zip(now, then, strict=True):
            assert all(same(row[column], value) for column, value in before.items()), name


def test_a_report_on_the_tables_says_what_it_said(old: Path, tmp_path: Path) -> None:
    said = json.loads((old / "report.json").read_text())
    del said["page"]
    now = json.loads(json.dumps(summarise(load_tables(old / "tables")).to_json()))
    for document in (now, said):
        for row in document["table"]:
            del row["definition"]  # those of scores speak of labels now
    assert now == said
    write_page(old / "tables", tmp_path / "page.html", "An older report")
    assert "0.024" in (tmp_path / "page.html").read_text()
