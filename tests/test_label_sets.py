"""Masks of several labels, from a layout of another package to the page: every command, on made-up anatomy."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest

from mspipeline.errors import ConfigError, ShapeError, ShardError, VolumeError
from mspipeline.runs import RunPaths, read_record
from mspipeline.shards.manifest import load_manifest
from tests.command_line import Ended, run
from tests.installed_package import install

SHAPE = (16, 16, 8)
CASES = 7
COUNTED = ("truth_lesions_6", "msseg2016_f1")


def anatomy(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scan and its labels: in a head of mean 100 a brighter box, and behind it one that is brighter still."""
    scan, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    scan[2:14, 2:14] = 100
    x, y, z = random.integers(3, 6), random.integers(3, 5), random.integers(0, 3)
    labels[x : x + 6, y : y + 4, z : z + 5] = 1
    labels[x : x + 6, y + 4 : y + 8, z : z + 5] = 2
    scan += 60 * labels
    scan[scan > 0] += random.normal(0, 5, int((scan > 0).sum()))
    return scan, labels


def write_dataset(folder: Path, cases: int = CASES) -> Path:
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    for number in range(1, cases + 1):
        for name, data in zip(("images", "labels"), anatomy(random), strict=True):
            nib.nifti1.save(nib.Nifti1Image(data, affine), folder / name / f"{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the layout in it, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder, "label-plugins", "[mspipeline.datasets]\nlabelled = label_set:LABELLED\n", "label_set")
    return folder


def command(installed: Path, *words: object, cwd: Path) -> Ended:
    return run(*words, cwd=cwd, PYTHONPATH=os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def prepared(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and its `shards`: 5 cases to train on, 1 each for validation and test. Read only."""
    folder = tmp_path_factory.mktemp("labels")
    write_dataset(folder / "data")
    words = ("prepare", "data", "--set", "size=[16,16,8]", "--set", "brain=nonzero", "-o", "shards")
    done = command(installed, *words, cwd=folder)
    assert done.code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "labels: 0 (background), 1 (anterior), 2 (posterior); hippocampus: anterior + posterior" in said
    assert said.endswith("next: mspipeline train unet2d shards --set classes=3")
    return folder


def test_shards_hold_the_numbers_of_the_masks_and_the_manifest_their_names(prepared: Path) -> None:
    document = json.loads((prepared / "shards" / "manifest.json").read_text())
    assert document["schema_version"] == 2
    assert document["labels"]["labels"]["posterior"] == {"value": 2, "count_components": True}
    manifest = load_manifest(prepared / "shards")
    assert manifest.label_set.names == ("background", "anterior", "posterior")
    for entry in manifest.cases:
        drawn = np.asarray(nib.nifti1.load(prepared / "data/labels" / f"{entry.case[4:]}.nii.gz").dataobj)
        with h5py.File(prepared / "shards" / entry.file) as file:
            assert file["mask"].dtype == file["scan_mask"].dtype == np.uint8
            assert np.array_equal(file["scan_mask"][...], drawn)
            assert np.array_equal(file["mask"][...], np.moveaxis(drawn, 2, 0))
        assert entry.label_voxels == {"anterior": int((drawn == 1).sum()), "posterior": int((drawn == 2).sum())}


def test_a_network_of_too_few_classes_is_refused_with_the_argument_to_set(prepared: Path) -> None:
    refused = run("train", "unet2d", "shards", cwd=prepared)
    assert refused.code == ShapeError.exit_code
    assert "unet2d: gives (16, 16, 1) after Sigmoid" in refused.error
    assert "for the labels background, anterior, posterior set classes=3 (`--set classes=3`)" in refused.error


def test_a_recipe_of_lesions_refuses_other_labels(installed: Path, prepared: Path, tmp_path: Path) -> None:
    words = ("--recipe", "patches3d", "--set", 'modalities=["FLAIR"]', "--set", "brain=nonzero", "-o", tmp_path / "new")
    refused = command(installed, "prepare", "data", *words, cwd=prepared)
    assert refused.code == ConfigError.exit_code
    assert "2 (posterior), and recipe patches3d is of lesions alone, 0 (background), 1 (lesion)" in refused.error
    words = ("--set", "size=[16,16,8]", "--set", "brain=nonzero", "--set", "mask_threshold=0.5", "-o", tmp_path / "new")
    refused = command(installed, "prepare", "data", *words, cwd=prepared)
    assert refused.code == ConfigError.exit_code
    assert "mask_threshold 0.5: makes lesion masks of values" in refused.error


def test_a_label_that_the_set_lacks_is_named_with_its_case_value_and_count(installed: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=3)
    image = nib.nifti1.load(data / "labels" / "2.nii.gz")
    labels = np.asarray(image.dataobj).copy()
    labels[:2, 0, 0] = 7
    nib.nifti1.save(nib.Nifti1Image(labels, image.affine), data / "labels" / "2.nii.gz")
    words = ("prepare", "data", "--set", "size=[16,16,8]", "--set", "brain=nonzero", "-o", "shards")
    refused = command(installed, *words, cwd=tmp_path)
    assert refused.code == VolumeError.exit_code
    assert refused.error.startswith("sub-2: ")
    assert (
        "labels/2.nii.gz: 2 mask voxels hold 7, expected 0 (background), 1 (anterior), 2 (posterior)" in refused.error
    )


def test_a_label_that_no_training_case_has_is_said_and_not_trained(installed: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", cases=3)
    for path in (data / "labels").iterdir():
        image = nib.nifti1.load(path)
        nib.nifti1.save(nib.Nifti1Image(np.asarray(image.dataobj) // 2 * 2, image.affine), path)
    words = ("--set", "size=[16,16,8]", "--set", "brain=nonzero", "-o", "shards", "--validation", "0", "--test", "0")
    done = command(installed, "prepare", "data", *words, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "no training case has anterior, so that nothing learns it" in " ".join(done.stderr.split())
    refused = run("train", "unet2d", "shards", "--set", "classes=3", cwd=tmp_path)
    assert refused.code == ShardError.exit_code
    assert "no training case has anterior, so there is nothing to learn it from" in refused.error


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    return 2 * int((truth & found).sum()) / (int(truth.sum()) + int(found.sum()))


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_two_labels_are_learned_scored_predicted_collected_and_reported(
    installed: Path, prepared: Path, tmp_path: Path
) -> None:
    shards, data = prepared / "shards", prepared / "data"
    (tmp_path / "training.toml").write_text("epochs = 10\nbatch_size = 4\nlearning_rate = 0.01\nwarmup_steps = 10\n")
    words = ("--config", "training.toml", "--set", "classes=3", "--set", "base_width=8", "--set", "dropout=0.1")
    trained = run("train", "unet2d", shards, *words, "--device", "cpu", "--json", cwd=tmp_path)
    assert trained.code == 0, trained.stderr
    folder = tmp_path / "runs" / json.loads(trained.stdout)["run_id"]
    assert read_record(RunPaths(folder)).label_set == load_manifest(shards).label_set

    scored = run("evaluate", folder, shards, "--device", "cpu", "--json", cwd=tmp_path)
    assert scored.code == 0, scored.stderr
    rows = json.loads(scored.stdout)
    assert [row["label"] for row in rows] == ["anterior", "hippocampus", "posterior"] * 2  # sorted, of two cases
    assert {row["label"]: row["united"] for row in rows} == {
        "anterior": None,
        "posterior": None,
        "hippocampus": "anterior + posterior",
    }
    assert all(row["dice"] > 0.5 for row in rows)
    for row in rows:
        known = [row[name] is not None for name in COUNTED]
        assert all(known) if row["label"] == "posterior" else not any(known)
        assert (row["roc_auc"] is None) == (row["label"] == "hippocampus")

    predicted = command(installed, "predict", folder, data, "-o", "maps", "--device", "cpu", cwd=tmp_path)
    assert predicted.code == 0, predicted.stderr
    assert "label maps are in" in predicted.stdout
    (scores,) = [row for row in rows if row["subset"] == "test" and row["label"] == "anterior"]
    case = scores["case"]
    (maps,) = (tmp_path / "maps").glob(f"*/{case}/anat")
    assert sorted(path.name for path in maps.iterdir()) == [
        f"{case}_dseg.json",
        f"{case}_dseg.nii.gz",
        f"{case}_dseg.tsv",
    ]
    with (maps / f"{case}_dseg.tsv").open(newline="") as stream:
        table = list(csv.reader(stream, delimiter="\t"))
    assert table == [["index", "name"], ["0", "background"], ["1", "anterior"], ["2", "posterior"]]
    image = nib.nifti1.load(maps / f"{case}_dseg.nii.gz")
    assert image.get_data_dtype() == np.uint8
    found, drawn = (np.asarray(nib.nifti1.load(path).dataobj) for path in (image.get_filename(), mask_of(data, case)))
    assert dice(drawn == 1, found == 1) == pytest.approx(scores["dice"])

    assert run("collect", "runs", "-o", "tables", cwd=tmp_path).code == 0
    cases = pq.read_table(tmp_path / "tables" / "cases.parquet")
    assert cases.schema.metadata[b"schema_version"] == b"2"
    for row, written in zip(cases.to_pylist(), rows, strict=True):
        assert (row["label"], row["dice"]) == (written["label"], written["dice"])
        assert (row["truth_lesions_6"] is None) == math.isnan(row["msseg2016_f1"]) == (row["label"] != "posterior")
    lesions = pq.read_table(tmp_path / "tables" / "lesions.parquet").to_pylist()
    assert {row["label"] for row in lesions} == {"posterior"}

    done = run("report", "tables", "-o", "page.html", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    comparison: dict[str, Any] = json.loads(done.stdout)
    of_test = {row["label"]: row["dice"] for row in rows if row["subset"] == "test"}
    mean = (of_test["anterior"] + of_test["posterior"]) / 2  # the region unites both: it does not count again
    shown = {row["key"]: row["cells"][0]["value"] for row in comparison["table"] if row["key"].startswith("cases.test")}
    assert shown.pop("cases.test.dice") == pytest.approx(mean)
    assert {label: shown[f"cases.test.dice.{label}"] for label in of_test} == pytest.approx(of_test)
    assert {key for key in shown if "msseg2016_f1" in key} == {"cases.test.msseg2016_f1.posterior"}
    assert f"reached a median mean Dice over labels of {mean:.3f} on 1 held-out test case" in comparison["headline"]
    page = (tmp_path / "page.html").read_text()
    assert "<td>hippocampus</td>" in page
    assert "mean over 2 labels" in page


def mask_of(data: Path, case: str) -> Path:
    return data / "labels" / f"{case.removeprefix('sub-')}.nii.gz"
