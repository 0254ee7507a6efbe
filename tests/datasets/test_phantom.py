"""mspipeline.datasets.phantom: a whole, reproducible BIDS folder or none."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mspipeline.datasets.phantom import make_phantom
from mspipeline.errors import StorageError, UsageError

SMALL = (32, 32, 24)


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _load(path: Path) -> Any:
    return nib.nifti1.load(path)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    make_phantom(folder, cases=2, seed=7, shape=SMALL)
    return folder


def test_the_folder_holds_the_files_of_bids_and_nothing_else(phantom: Path) -> None:
    expected = {"dataset_description.json", "participants.tsv", "README"}
    for masks in ("lesions", "brain"):
        expected.add(f"derivatives/{masks}/dataset_description.json")
    for case in ("sub-01", "sub-02"):
        expected |= {f"{case}/anat/{case}_{modality}.nii.gz" for modality in ("T1w", "T2w", "FLAIR")}
        expected.add(f"derivatives/lesions/{case}/anat/{case}_label-lesion_mask.nii.gz")
        expected.add(f"derivatives/brain/{case}/anat/{case}_desc-brain_mask.nii.gz")
    assert set(_hashes(phantom)) == expected
    assert sorted(item.name for item in phantom.iterdir()) == [
        "README", "dataset_description.json", "derivatives", "participants.tsv", "sub-01", "sub-02",
    ]  # fmt: skip


def test_descriptions_say_what_the_folder_is(phantom: Path) -> None:
    raw = json.loads((phantom / "dataset_description.json").read_text())
    assert raw["DatasetType"] == "raw"
    assert "seed 7" in raw["GeneratedBy"][0]["Description"]
    for masks in ("lesions", "brain"):
        derivative = json.loads((phantom / "derivatives" / masks / "dataset_description.json").read_text())
        assert derivative["DatasetType"] == "derivative"
        assert derivative["GeneratedBy"][0]["Name"] == "mspipeline phantom"
        assert {"Name", "BIDSVersion"} <= derivative.keys()
    with (phantom / "participants.tsv").open() as stream:
        assert [row["participant_id"] for row in csv.DictReader(stream, delimiter="\t")] == ["sub-01", "sub-02"]


def test_images_are_int16_in_las_with_both_codes_set(phantom: Path) -> None:
    image = _load(phantom / "sub-01/anat/sub-01_FLAIR.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert image.shape == SMALL
    assert "".join(nib.aff2axcodes(image.affine)) == "LAS"
    assert image.header.get_zooms() == (6.0, 6.0, 6.25)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(image.affine @ [15.5, 15.5, 11.5, 1], [0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_masks_are_binary_on_the_grid_of_the_scans_and_mark_bright_flair(phantom: Path) -> None:
    flair = _load(phantom / "sub-02/anat/sub-02_FLAIR.nii.gz")
    lesion = _load(phantom / "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz")
    brain = _load(phantom / "derivatives/brain/sub-02/anat/sub-02_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(lesion.affine, flair.affine)
    inside, healthy = np.asarray(lesion.dataobj), np.asarray(brain.dataobj)
    assert set(np.unique(inside)) == set(np.unique(healthy)) == {0, 1}
    values = np.asarray(flair.dataobj)
    assert values[inside == 1].mean() > 1.3 * values[(healthy == 1) & (inside == 0)].mean()


def test_equal_arguments_give_equal_bytes(phantom: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path / "again", cases=2, seed=7, shape=SMALL)
    assert _hashes(tmp_path / "again") == _hashes(phantom)


def test_a_case_does_not_depend_on_how_many_there_are(phantom: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path / "more", cases=3, seed=7, shape=SMALL)
    more = _hashes(tmp_path / "more")
    images = {name: digest for name, digest in _hashes(phantom).items() if name.endswith(".nii.gz")}
    assert len(images) == 10
    assert images.items() <= more.items()
    make_phantom(tmp_path / "other", cases=1, seed=8, shape=SMALL)
    assert _hashes(tmp_path / "other")["sub-01/anat/sub-01_T1w.nii.gz"] not in images.values()


def test_an_asked_spacing_is_that_of_the_files(tmp_path: Path) -> None:
    make_phantom(tmp_path / "data", cases=1, shape=(20, 24, 18), spacing_mm=(9.0, 8.0, 8.5))
    image = _load(tmp_path / "data/sub-01/anat/sub-01_T2w.nii.gz")
    assert image.shape == (20, 24, 18)
    assert image.header.get_zooms() == (9.0, 8.0, 8.5)


def test_every_case_is_reported(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    make_phantom(tmp_path / "data", cases=2, shape=(16, 16, 16), report=lambda *call: calls.append(call))
    assert calls == [("sub-01", 1, 2), ("sub-02", 2, 2)]


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder; name a new one"):
        make_phantom(tmp_path, cases=1, shape=SMALL)
    with pytest.raises(UsageError, match="not an empty folder"):
        make_phantom(tmp_path / "notes.txt", cases=1, shape=SMALL)
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupt_leaves_the_folder_as_it_was(tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "data"
    if existed:
        folder.mkdir()

    def interrupt(case: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantom(folder, cases=2, shape=(16, 16, 16), report=interrupt)
    assert folder.exists() == existed
    assert not existed or not list(folder.iterdir())


def test_what_a_killed_attempt_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".partial" / "sub-99").mkdir(parents=True)
    make_phantom(tmp_path, cases=1, shape=(16, 16, 16))
    assert {item.name for item in tmp_path.iterdir()} == {
        "README", "dataset_description.json", "derivatives", "participants.tsv", "sub-01",
    }  # fmt: skip


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        make_phantom(tmp_path / "file" / "data", cases=1, shape=(16, 16, 16))


@pytest.mark.parametrize(
    "arguments", [{"cases": 0}, {"seed": -1}, {"shape": (64, 64, 4)}, {"spacing_mm": (1.0, 0.0, 1.0)}]
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected at least 1 case"):
        make_phantom(tmp_path / "data", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
