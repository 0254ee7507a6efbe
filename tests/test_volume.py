from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from mspipeline.errors import ShapeError, VolumeError
from mspipeline.volume import ScanGrid, load_mask, load_volume, save_volume, to_scan_grid

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*axes)
]


def write(path: Path, data: np.ndarray, affine: np.ndarray | None = None, codes: tuple[int, int] = (1, 1)) -> Path:
    affine = np.diag([-1.0, 2, 3, 1]) if affine is None else affine
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, path)
    return path


def oriented(letters: str) -> tuple[np.ndarray, np.ndarray]:
    """A small image of (2, 3, 4) voxels in RAS, stored with the axes that `letters` name."""
    ras = nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.diag([1.0, 2, 3, 1]))
    stored = ras.as_reoriented(
        orientations.ornt_transform(orientations.io_orientation(ras.affine), orientations.axcodes2ornt(letters))
    )
    return np.asarray(stored.dataobj), stored.affine


@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_every_orientation_comes_in_as_ras_and_goes_back_as_it_was(tmp_path: Path, letters: str) -> None:
    data, affine = oriented(letters)
    volume = load_volume(write(tmp_path / "in.nii.gz", data, affine))
    assert np.array_equal(volume.data, np.arange(24).reshape(2, 3, 4))
    assert np.allclose(volume.grid.affine_ras, np.diag([1.0, 2, 3, 1]))
    assert volume.grid.spacing_mm == (1, 2, 3)
    assert np.array_equal(to_scan_grid(volume.data, volume.grid), data)
    save_volume(tmp_path / "out.nii.gz", volume.data, volume.grid)
    back = nib.nifti1.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(back.dataobj), data)
    assert np.array_equal(back.affine, affine)


@pytest.mark.parametrize("codes", [(1, 0), (1, 1), (4, 4), (2, 1), (0, 2)])
def test_qform_and_sform_codes_are_kept(tmp_path: Path, codes: tuple[int, int]) -> None:
    source = write(tmp_path / "in.nii.gz", np.ones((2, 3, 4), np.float32), codes=codes)
    volume = load_volume(source)
    save_volume(tmp_path / "out.nii.gz", volume.data > 0, volume.grid)
    header = nib.nifti1.load(tmp_path / "out.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == codes
    assert np.allclose(nib.nifti1.load(tmp_path / "out.nii.gz").affine, nib.nifti1.load(source).affine)


def test_equal_volumes_give_equal_bytes(tmp_path: Path) -> None:
    volume = load_volume(write(tmp_path / "in.nii.gz", np.random.default_rng(0).random((4, 5, 6), np.float32)))
    for name in ("a", "b"):
        save_volume(tmp_path / f"{name}.nii.gz", volume.data, volume.grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_voxel_of_two_by_three_millimetres_has_its_volume() -> None:
    assert ScanGrid((4, 4, 4), np.diag([-1.0, 2, 3, 1]), 1, 1).voxel_ml == pytest.approx(0.006)


def test_grids_are_the_same_within_a_tenth_of_a_voxel() -> None:
    affine = np.diag([1.0, 1, 1, 1])
    near, far = affine.copy(), affine.copy()
    near[0, 3], far[0, 3] = 0.09, 0.11
    grid = ScanGrid((9, 9, 9), affine, 1, 1)
    assert grid.same_as(ScanGrid((9, 9, 9), near, 2, 0))
    assert not grid.same_as(ScanGrid((9, 9, 9), far, 1, 1))
    assert not grid.same_as(ScanGrid((9, 9, 8), affine, 1, 1))


def test_a_single_volume_with_a_fourth_axis_is_taken(tmp_path: Path) -> None:
    assert load_volume(write(tmp_path / "x.nii.gz", np.ones((2, 3, 4, 1), np.float32))).data.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((2, 3, 4, 2), np.float32), r"has 4 axes \(2, 3, 4, 2\), expected a 3-D image"),
        (np.array([[[1, np.nan, np.inf]]], np.float32), "2 voxels are NaN or infinite"),
    ],
)
def test_images_that_cannot_be_used_are_named(tmp_path: Path, data: np.ndarray, words: str) -> None:
    with pytest.raises(VolumeError, match=rf"bad\.nii\.gz: {words}"):
        load_volume(write(tmp_path / "bad.nii.gz", data))


@pytest.mark.parametrize("keep", [0, 1, 200, 0.5, 0.99])
def test_a_truncated_image_is_named_in_one_line(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path / "cut.nii.gz", np.random.default_rng(0).random((16, 16, 16), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(VolumeError, match=r"cut\.nii\.gz: truncated") as caught:
        load_volume(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(VolumeError, match="not an image"):
        load_volume(tmp_path / "x.nii.gz")
    with pytest.raises(VolumeError, match="no such image"):
        load_volume(tmp_path / "y.nii.gz")


def test_masks_are_binary_whatever_their_type(tmp_path: Path) -> None:
    for kind in (np.uint8, np.float32):
        mask = load_mask(write(tmp_path / "m.nii.gz", np.array([[[0, 1, 1]]], kind)))
        assert mask.data.dtype == bool
        assert mask.data.sum() == 2


@pytest.mark.parametrize("one", [0.9999999, 1.0000001, 1.0009, 0.9991])
def test_a_mask_whose_ones_were_rounded_is_binary(tmp_path: Path, one: float) -> None:
    mask = load_mask(write(tmp_path / "m.nii.gz", np.array([[[0, 1e-7, one]]], np.float32)))
    assert mask.data.tolist() == [[[False, False, True]]]


def test_a_mask_of_scaled_bytes_is_binary(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.array([[[0, 1, 1]]], np.float64), np.eye(4))
    image.set_data_dtype(np.uint8)  # nibabel stores 0 and 255 with the slope 1/255
    nib.save(image, tmp_path / "m.nii.gz")
    assert float(nib.nifti1.load(tmp_path / "m.nii.gz").dataobj.slope) == pytest.approx(1 / 255)
    assert load_mask(tmp_path / "m.nii.gz").data.sum() == 2


@pytest.mark.parametrize("value", [0.5, 2.0, 0.99, -1.0, 255.0])
def test_a_mask_with_any_other_value_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(VolumeError, match=rf"not a binary mask: holds 3 values .*{value:g}"):
        load_mask(write(tmp_path / "m.nii.gz", np.array([[[0, 1, value]]], np.float32)))


def test_a_mask_that_is_not_binary_is_answered_with_its_values_and_a_way_out(tmp_path: Path) -> None:
    path = write(tmp_path / "m.nii.gz", np.array([[[0, 0.25, 1]]], np.float32))
    with pytest.raises(VolumeError, match=r"holds 3 values \(0, 0\.25, 1\).*mask_threshold"):
        load_mask(path)
    assert load_mask(path, threshold=0.2).data.sum() == 2


def test_an_empty_mask_is_a_healthy_case(tmp_path: Path) -> None:
    assert not load_mask(write(tmp_path / "m.nii.gz", np.zeros((2, 2, 2), np.uint8))).data.any()


def test_a_volume_of_another_shape_does_not_fit_a_scan() -> None:
    with pytest.raises(ShapeError, match="does not fit"):
        to_scan_grid(np.zeros((2, 2, 2)), ScanGrid((3, 2, 2), np.eye(4), 1, 1))
