"""Lesion maps on the grids of their scans."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mspipeline.config import PredictJob, TrainJob
from mspipeline.errors import DatasetError, Interrupted, RunFolderError, SuiteError, VolumeError
from mspipeline.files import sha256_file
from mspipeline.jobs.work.predict import Prediction, predict
from mspipeline.runs import RunPaths, read_record, write_record
from mspipeline.telemetry.events import EventWriter
from mspipeline.telemetry.schema import Identity

pytestmark = pytest.mark.usefixtures("backend_needed")


def maps(
    run_folder: Path,
    dataset: Path,
    output: Path,
    *,
    stop: Any = lambda: None,
    warn: Callable[[str], None] = print,
    **keys: Any,
) -> list[Prediction]:
    job = PredictJob(run_folder=run_folder, dataset=dataset, output=output, threads=2, **keys)
    with EventWriter(None, Identity("")) as events:
        return predict(job, events=events, stop=stop, warn=warn)


@pytest.fixture
def run_folder(trained_run: TrainJob) -> Path:
    """A finished run. Read only."""
    return trained_run.run_folder


@pytest.fixture
def scans(small_dataset: Path, tmp_path: Path) -> Path:
    """One anatomy three times, FLAIR alone: as LAS, as PSR in a session, and as AIR turned by 10 degrees.

    The last has other NIfTI codes; there are no masks.
    """
    folder = tmp_path / "scans"
    image = nib.nifti1.load(small_dataset / "sub-01/anat/sub-01_FLAIR.nii.gz")
    turn = np.deg2rad(10.0)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    for place, name, axes, affine, codes in (
        ("sub-01/anat", "sub-01", "LAS", image.affine, (1, 1)),
        ("sub-02/ses-01/anat", "sub-02_ses-01", "PSR", image.affine, (1, 0)),
        ("sub-03/ses-02/anat", "sub-03_ses-02", "AIR", rotation @ image.affine, (1, 4)),
    ):
        change = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LAS"), nib.orientations.axcodes2ornt(axes)
        )
        turned = nib.Nifti1Image(np.asarray(image.dataobj), affine).as_reoriented(change)
        assert "".join(nib.aff2axcodes(turned.affine)) == axes
        turned.set_qform(turned.affine, codes[0])
        turned.set_sform(turned.affine if codes[1] else None, codes[1])
        (folder / place).mkdir(parents=True)
        turned.to_filename(folder / place / f"{name}_FLAIR.nii.gz")
    return folder


def test_maps_lie_on_the_grid_of_their_scan_whatever_its_orientation(
    run_folder: Path, scans: Path, tmp_path: Path
) -> None:
    done = maps(run_folder, scans, tmp_path / "out")
    root = tmp_path / "out" / f"mspipeline-{read_record(RunPaths(run_folder)).run_id}"
    assert [each.case for each in done] == ["sub-01", "sub-02_ses-01", "sub-03_ses-02"]
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.nii.gz")) == [
        "sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "sub-01/anat/sub-01_label-lesion_probseg.nii.gz",
        "sub-02/ses-01/anat/sub-02_ses-01_label-lesion_mask.nii.gz",
        "sub-02/ses-01/anat/sub-02_ses-01_label-lesion_probseg.nii.gz",
        "sub-03/ses-02/anat/sub-03_ses-02_label-lesion_mask.nii.gz",
        "sub-03/ses-02/anat/sub-03_ses-02_label-lesion_probseg.nii.gz",
    ]
    for each in done:
        place = each.mask.parent.relative_to(root)
        scan = nib.nifti1.load(scans / place / f"{each.case}_FLAIR.nii.gz")
        for file in (each.mask, each.probability):
            image = nib.nifti1.load(file)
            assert image.shape == scan.shape
            assert np.allclose(image.affine, scan.affine, atol=1e-5)
            assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(scan.affine)
            for code in ("qform_code", "sform_code"):
                assert int(image.header[code]) == int(scan.header[code])


def test_one_anatomy_in_three_orientations_has_one_map(run_folder: Path, scans: Path, tmp_path: Path) -> None:
    done = maps(run_folder, scans, tmp_path / "out")
    las, psr, air = (np.asarray(nib.as_closest_canonical(nib.nifti1.load(each.probability)).dataobj) for each in done)
    assert las.std() > 0
    assert np.array_equal(las, psr)
    assert np.array_equal(las, air)


def test_a_map_is_turned_as_its_scan_is_stored_upright_oblique_or_halfway(
    run_folder: Path, small_dataset: Path, tmp_path: Path
) -> None:
    image = nib.nifti1.load(small_dataset / "sub-01/anat/sub-01_FLAIR.nii.gz")
    data = np.asarray(image.dataobj)
    orders = [
        np.array([[0, 1], [1, 1], [2, 1]]),
        np.array([[1, -1], [0, 1], [2, 1]]),
        np.array([[2, 1], [0, -1], [1, -1]]),
    ]
    for degrees in (0, 30, 45):  # at 45 two orientations are equally close
        angle = np.deg2rad(degrees)
        rotation = np.eye(4)
        rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        for number, order in enumerate(orders):
            name = f"sub-{degrees:02d}x{number}"
            turned = nib.Nifti1Image(data, rotation @ image.affine).as_reoriented(order)
            (tmp_path / "in" / name / "anat").mkdir(parents=True)
            turned.to_filename(tmp_path / "in" / name / "anat" / f"{name}_FLAIR.nii.gz")
    done = maps(run_folder, tmp_path / "in", tmp_path / "out")
    assert len(done) == 9
    probability = [np.asarray(nib.nifti1.load(each.probability).dataobj) for each in done]
    for first in (0, 3, 6):
        assert probability[first].std() > 0
        for number, order in enumerate(orders):
            expected = nib.orientations.apply_orientation(probability[first], order)
            assert np.array_equal(probability[first + number], expected), done[first + number].case
    assert np.array_equal(probability[0], probability[3])  # by 30 degrees the same axes are closest


def test_a_mask_is_one_where_the_probability_reaches_the_threshold(
    trained_run: TrainJob, scans: Path, tmp_path: Path
) -> None:
    run_folder = shutil.copytree(trained_run.run_folder, tmp_path / "finished")
    probability = np.asarray(nib.nifti1.load(maps(run_folder, scans, tmp_path / "first")[0].probability).dataobj)
    threshold = float(np.median(probability[probability > 0]))  # a value that voxels have exactly
    paths = RunPaths(run_folder)
    write_record(paths, read_record(paths).model_copy(update={"threshold": threshold}))
    for each in maps(run_folder, scans, tmp_path / "out"):
        image, mask = nib.nifti1.load(each.probability), nib.nifti1.load(each.mask)
        values = np.asarray(image.dataobj)
        assert (image.get_data_dtype(), mask.get_data_dtype()) == (np.float32, np.uint8)
        assert 0 <= values.min() < values.max() <= 1
        expected = values >= np.float32(threshold)
        assert 0 < expected.sum() < expected.size
        assert np.array_equal(np.asarray(mask.dataobj), expected.astype(np.uint8))
        voxel_ml = 6.0 * 6.0 * 9.375 / 1000
        assert each.volumes_ml["lesion"] == pytest.approx(int(expected.sum()) * voxel_ml)


def test_the_derivative_says_what_made_it_from_what(run_folder: Path, scans: Path, tmp_path: Path) -> None:
    (first, *_) = maps(run_folder, scans, tmp_path / "out", checkpoint="last")
    root = first.mask.parents[2]
    said = json.loads((root / "dataset_description.json").read_text(encoding="utf-8"))
    # BIDS 1.10 asks these of a derivative.
    assert {"Name", "BIDSVersion", "DatasetType", "GeneratedBy"} <= set(said)
    assert said["DatasetType"] == "derivative"
    (maker,) = said["GeneratedBy"]
    assert maker["Name"] == "mspipeline"
    assert "small_unet on tensorflow" in maker["Description"]
    assert "last checkpoint" in maker["Description"]
    assert "at least 0.5" in maker["Description"]
    assert said["SourceDatasets"] == [{"URL": scans.as_uri()}]


def test_brains_from_elsewhere_than_in_training_are_warned_of_and_recorded(
    run_folder: Path, scans: Path, small_dataset: Path, tmp_path: Path
) -> None:
    assert read_record(RunPaths(run_folder)).brain_sources == {"mask": 4}  # a phantom has masks
    warned: list[str] = []
    (first, *_) = maps(run_folder, scans, tmp_path / "out", warn=warned.append)
    assert warned[0].startswith(
        "the brain of 3 of 3 cases (sub-01, sub-02_ses-01, sub-03_ses-02) comes from the voxels that are not 0, in "
        "training from mask files: maps of scans that are not skull-stripped are wrong then; add derivatives/*/"
    )
    described = json.loads((first.mask.parents[2] / "dataset_description.json").read_text())
    assert (described["BrainSources"], described["BrainSourcesInTraining"]) == ({"nonzero": 3}, {"mask": 4})
    for kind in ("mask", "probseg"):
        sidecar = json.loads((first.mask.parent / f"sub-01_label-lesion_{kind}.json").read_text())
        assert (sidecar["Type"], sidecar["BrainSource"]) == ("Lesion", "nonzero")
        assert sidecar["Sources"] == ["bids:scans:sub-01/anat/sub-01_FLAIR.nii.gz"]

    with pytest.raises(DatasetError, match=r"3 of 3 cases have no brain mask .*--brain nonzero"):
        maps(run_folder, scans, tmp_path / "refused", brain="mask")
    assert not (tmp_path / "refused").exists()

    warned.clear()
    (first, *_) = maps(run_folder, small_dataset, tmp_path / "masks", warn=warned.append)
    sidecar = json.loads((first.mask.parent / "sub-01_label-lesion_mask.json").read_text())
    assert (warned, sidecar["BrainSource"]) == ([], "mask")
    assert sidecar["Sources"][-1] == "bids:scans:derivatives/brain/sub-01/anat/sub-01_desc-brain_mask.nii.gz"


def test_a_subject_in_latin1_bytes_gets_its_maps_under_a_name_that_is_text(
    run_folder: Path, scans: Path, tmp_path: Path
) -> None:
    latin = os.fsdecode(b"sub-M\xfcller")
    (scans / "sub-01/anat/sub-01_FLAIR.nii.gz").rename(scans / f"sub-01/anat/{latin}_FLAIR.nii.gz")
    (scans / "sub-01").rename(scans / latin)
    done = maps(run_folder, scans, tmp_path / "out")
    (written,) = (each for each in done if each.case == "sub-M%FCller")
    assert written.mask.name == "sub-M%FCller_label-lesion_mask.nii.gz"
    sidecar = json.loads(written.mask.with_name("sub-M%FCller_label-lesion_mask.json").read_text(encoding="utf-8"))
    assert sidecar["Sources"] == ["bids:scans:sub-M%FCller/anat/sub-M%FCller_FLAIR.nii.gz"]


def test_one_run_and_one_scan_give_one_file_byte_by_byte(run_folder: Path, scans: Path, tmp_path: Path) -> None:
    first, second = (maps(run_folder, scans, tmp_path / name) for name in ("first", "second"))
    assert len(first) == 3
    for one, other in zip(first, second, strict=True):
        assert sha256_file(one.mask) == sha256_file(other.mask)
        assert one.probability is not None
        assert other.probability is not None
        assert sha256_file(one.probability) == sha256_file(other.probability)


def test_the_batch_size_does_not_matter(run_folder: Path, scans: Path, tmp_path: Path) -> None:
    one, other = (maps(run_folder, scans, tmp_path / str(n), batch_size=n)[0] for n in (3, 16))
    left, right = (np.asarray(nib.nifti1.load(each.probability).dataobj) for each in (one, other))
    assert np.allclose(left, right, atol=1e-5)


def test_cases_without_the_modality_fail_by_name_before_anything_is_written(
    run_folder: Path, scans: Path, tmp_path: Path
) -> None:
    flair = scans / "sub-02/ses-01/anat/sub-02_ses-01_FLAIR.nii.gz"
    flair.rename(flair.with_name("sub-02_ses-01_T2w.nii.gz"))
    with pytest.raises(DatasetError, match=r"1 incomplete \(sub-02_ses-01: no FLAIR \(has T2w\)\).*--skip-incomplete"):
        maps(run_folder, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = maps(run_folder, scans, tmp_path / "out", skip_incomplete=True)
    assert [each.case for each in done] == ["sub-01", "sub-03_ses-02"]


def test_a_scan_that_cannot_be_read_is_named_and_leaves_whole_maps(
    run_folder: Path, scans: Path, tmp_path: Path
) -> None:
    flair = scans / "sub-02/ses-01/anat/sub-02_ses-01_FLAIR.nii.gz"
    flair.write_bytes(flair.read_bytes()[:-3000])
    with pytest.raises(VolumeError, match=r"sub-02_ses-01_FLAIR\.nii\.gz: truncated"):
        maps(run_folder, scans, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        "dataset_description.json",
        *(f"sub-01_label-lesion_{kind}.{ending}" for kind in ("mask", "probseg") for ending in ("nii.gz", "json")),
    }


def test_a_stop_ends_after_a_whole_case(run_folder: Path, scans: Path, tmp_path: Path) -> None:
    asked: list[SuiteError | None] = [None, Interrupted("enough")]
    with pytest.raises(Interrupted):
        maps(run_folder, scans, tmp_path / "out", stop=lambda: asked.pop(0))
    assert len(list((tmp_path / "out").rglob("*_mask.nii.gz"))) == 2
    assert len(list((tmp_path / "out").rglob("*_probseg.nii.gz"))) == 2


def test_a_checkpoint_of_another_network_is_refused(trained_run: TrainJob, scans: Path, tmp_path: Path) -> None:
    run_folder = shutil.copytree(trained_run.run_folder, tmp_path / "finished")
    paths = RunPaths(run_folder)
    other = {"model": "unet2d", "model_arguments": {"base_width": 3}}
    write_record(paths, read_record(paths).model_copy(update=other))
    with pytest.raises(RunFolderError, match=r"best\.h5: holds weights of graph"):
        maps(run_folder, scans, tmp_path / "out")
    paths.best.write_bytes(b"no checkpoint")
    with pytest.raises(RunFolderError, match=r"best\.h5: not a readable checkpoint .*train this run again"):
        maps(run_folder, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()
