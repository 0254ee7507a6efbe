"""`mspipeline prepare --recipe patches3d`, from scans to batches of patches."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.config import PrepareJob, SplitSettings
from mspipeline.errors import DatasetError, ShardError
from mspipeline.jobs.work.prepare import prepare
from mspipeline.patches.sampling import first_stage
from mspipeline.recipes.catalogue import recipe_of
from mspipeline.recipes.patches3d.batches import PatchReader
from mspipeline.recipes.patches3d.shard import PatchEntry, read_patch_case, read_voxels
from mspipeline.shards.manifest import Manifest, entries_as, load_manifest, verify_shards
from tests.command_line import run


def job_of(dataset: Path, output: Path, *, skip: bool = False) -> PrepareJob:
    return PrepareJob(dataset=dataset, output=output, recipe="patches3d", skip_incomplete=skip)


@pytest.fixture(scope="module")
def shards(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's volumes, prepared with another compression than the default. Read only."""
    folder = tmp_path_factory.mktemp("patches") / "shards"
    prepare(job_of(small_dataset, folder), recipe_overrides={"compression": "gzip"})
    return folder


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the phantom that a test may change."""
    shutil.copytree(small_dataset, tmp_path / "dataset")
    return tmp_path / "dataset"


def truth_of(dataset: Path, case: str) -> np.ndarray:
    (path,) = dataset.glob(f"derivatives/*/{case}/anat/*label-lesion_mask.nii.gz")
    return np.asarray(nib.as_closest_canonical(nib.nifti1.load(path)).dataobj) != 0


def test_volumes_voxels_and_truth_lie_on_the_scans_own_grid(small_dataset: Path, shards: Path) -> None:
    manifest = load_manifest(shards)
    recipe = recipe_of(manifest.recipe, where="manifest")
    assert (recipe.kind, manifest.channels, recipe.image_shape) == (
        *("patches3d", ("FLAIR", "T1w", "T2w")),
        (11, 11, 11, 3),
    )
    for entry in entries_as(PatchEntry, manifest.cases):
        case, truth = read_patch_case(shards, entry), truth_of(small_dataset, entry.case)
        assert case.image.shape == (32, 32, 16, 3)
        assert np.array_equal(case.scan_mask, truth)
        assert np.array_equal(case.voxels.lesions, np.argwhere(truth))
        (scan,) = (small_dataset / entry.case / "anat").glob("*_T2w.nii.gz")
        voxels = np.asarray(nib.as_closest_canonical(nib.nifti1.load(scan)).dataobj)
        brain = case.image[..., 2] != 0
        assert np.corrcoef(case.image[brain, 2], voxels[brain])[0, 1] == pytest.approx(1)
        flair = case.image[..., 0][tuple(case.voxels.candidates.T)]
        assert flair.min() > 0.5
        assert np.array_equal(case.voxels.labels, truth[tuple(case.voxels.candidates.T)])


def test_preparing_again_does_nothing_and_makes_only_what_is_missing(
    small_dataset: Path, shards: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    manifest = load_manifest(copy)
    stamps = {path: path.stat().st_mtime_ns for path in (copy / "cases").iterdir()}
    lost = copy / manifest.cases[1].file
    lost.unlink()
    (copy / "manifest.json").unlink()  # a prepare that was stopped
    again = prepare(job_of(small_dataset, copy), recipe_overrides={"compression": "gzip"})
    assert again == manifest
    verify_shards(copy, again)
    assert [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp] == [lost]


def test_a_folder_of_another_recipe_is_refused_before_and_after_its_manifest(
    small_dataset: Path, shards: Path, small_shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match=r"another recipe \(it differs in compression\)"):
        prepare(job_of(small_dataset, shards))
    with pytest.raises(ShardError, match="another recipe"):
        prepare(job_of(small_dataset, small_shards))
    shutil.copytree(small_shards, tmp_path / "unfinished")
    (tmp_path / "unfinished/manifest.json").unlink()
    with pytest.raises(ShardError, match="made by another recipe"):
        prepare(job_of(small_dataset, tmp_path / "unfinished"))


def test_a_case_without_a_modality_is_named_or_left_out(dataset: Path, tmp_path: Path) -> None:
    (dataset / "sub-02/anat/sub-02_T2w.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 cases incomplete \(sub-02: no T2w \(has FLAIR, T1w\)\)"):
        prepare(job_of(dataset, tmp_path / "shards"))
    manifest = prepare(job_of(dataset, tmp_path / "shards", skip=True))
    assert [entry.case for entry in entries_as(PatchEntry, manifest.cases)] == ["sub-01", "sub-03", "sub-04"]
    assert [case.case for case in manifest.skipped] == ["sub-02"]


def change(path: Path, data: np.ndarray) -> None:
    image = nib.nifti1.load(path)
    nib.Nifti1Image(data, image.affine, image.header).to_filename(path)


def test_cases_without_lesions_or_candidates_are_stored_and_said(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (healthy,) = dataset.glob("derivatives/*/sub-01/anat/*label-lesion_mask.nii.gz")
    change(healthy, np.zeros(nib.nifti1.load(healthy).shape, np.uint8))
    dull = dataset / "sub-02/anat/sub-02_FLAIR.nii.gz"
    (mask,) = dataset.glob("derivatives/*/sub-02/anat/*desc-brain_mask.nii.gz")
    brain = np.asarray(nib.nifti1.load(mask).dataobj) != 0
    dark = np.zeros(brain.shape, np.float32)
    dark[brain] = 100
    dark[tuple(np.argwhere(brain)[0])] = 1  # one voxel far below the others: none is above the mean by half a spread
    change(dull, dark)
    job = PrepareJob(
        dataset=dataset,
        output=tmp_path / "shards",
        recipe="patches3d",
        split=SplitSettings(validation=0, test=0),
    )
    manifest = prepare(job)
    assert "case without lesions case=sub-01: training leaves it out" in caplog.text
    assert "case without candidates case=sub-02" in caplog.text
    found = {
        entry.case: (entry.candidates > 0, entry.lesion_voxels > 0) for entry in entries_as(PatchEntry, manifest.cases)
    }
    assert found == {"sub-01": (True, False), "sub-02": (False, True), "sub-03": (True, True), "sub-04": (True, True)}
    selection = {
        entry.case: first_stage(read_voxels(job.output, entry), case=entry.case, seed=0)
        for entry in entries_as(PatchEntry, manifest.cases)
    }
    with PatchReader(
        *(job.output, entries_as(PatchEntry, manifest.cases)),
        patch_size=(11, 11, 11),
        selection=selection,
        batch_size=64,
        seed=0,
        shuffle=True,
    ) as reader:
        cases = np.concatenate([batch.cases for batch in reader.epoch(1)])
    assert set(cases.tolist()) == {1, 2, 3}


def test_the_command_says_what_there_is_and_what_to_do_next(small_dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    done = run("prepare", small_dataset, "--recipe", "patches3d", "-o", output)
    said = " ".join(done.stdout.split())
    assert done.code == 0, done.stderr
    assert "4 cases (2 train, 1 validation, 1 test)" in said
    assert "lesion voxels, patches of 11x11x11x3 (FLAIR, T1w, T2w)" in said
    assert "next: mspipeline train cascade3d" in said


@pytest.mark.real
def test_the_real_cases_with_a_t2w_are_prepared(real_data: Path, tmp_path: Path) -> None:
    manifest: Manifest = prepare(job_of(real_data / "ms", tmp_path / "shards", skip=True))
    assert [entry.case for entry in entries_as(PatchEntry, manifest.cases)] == ["sub-openms07", "sub-openms26"]
    assert manifest.skipped[0].reason.startswith("no T2w")
    for entry in entries_as(PatchEntry, manifest.cases):
        voxels = read_voxels(tmp_path / "shards", entry)
        assert voxels.labels.sum() > 0.9 * len(voxels.lesions)  # nearly every lesion voxel is bright
        assert 0.03 < len(voxels.candidates) / np.prod(entry.volume_shape) < 0.1  # a quarter of the brain
