"""What becomes of lesions on other grids, counted by hand and by scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mspipeline.datasets.case import Case
from mspipeline.datasets.transforms import Transform
from mspipeline.errors import DatasetError
from mspipeline.preprocess.lesion_counts import LesionCount, count
from mspipeline.preprocess.resample_onto import reader_onto
from mspipeline.recipes.slices2d.case import PreparedCase
from mspipeline.recipes.slices2d.prepare import apply
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import ScanGrid, Volume

SHAPE = (20, 24, 12)
THICK = np.diag([1.0, 1.0, 3.0, 1.0])
THIN = np.diag([1.0, 1.0, 1.0, 1.0])
THIN[2, 3] = -1.0  # three thin slices in each thick one, the middle one at its centre


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    return save(tmp_path / "flair.nii", data, THICK)


def thin(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((20, 24, 36), np.uint8)
    for voxel in voxels:
        mask[voxel] = 1
    return mask


def test_lesions_touch_by_faces_edges_and_corners() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 1] = True  # a corner, an edge
    mask[5, 5, 5] = True
    assert count(mask, 0.002) == LesionCount(lesions=2, ml=0.008)
    assert count(np.zeros((2, 2, 2), bool), 1.0) == LesionCount(lesions=0, ml=0.0)
    assert count(np.ones((2, 2, 2), bool), 1.0) == LesionCount(lesions=1, ml=8.0)


def test_thin_lesions_between_thick_slices_are_counted_as_lost(scan: Path, tmp_path: Path) -> None:
    # Thick slice k holds thin slices 3k to 3k + 2, and takes the value of 3k + 1.
    drawn = thin((3, 3, 4), (9, 9, 5), (12, 12, 6), (15, 15, 7), (15, 16, 10))
    reader = reader_onto("FLAIR", {"FLAIR": scan}, {})
    mask, placing = reader.placed_mask("lesions", save(tmp_path / "m.nii", drawn, THIN))
    assert sorted(map(tuple, np.argwhere(mask.data))) == [(3, 3, 1), (15, 15, 2), (15, 16, 3)]
    assert placing is not None
    assert placing.before == LesionCount(lesions=5, ml=0.005)
    # The two in thick slices 2 and 3 have come to touch by an edge: two lesions are left, but only two were lost.
    assert placing.after == LesionCount(lesions=2, ml=0.009)
    assert (placing.lost, placing.outside, placing.lost_ml) == (2, 0.0, pytest.approx(0.002))


@pytest.mark.parametrize(("shift", "outside"), [(6.0, 0.25), (3.0, 0.0)])
def test_voxels_outside_the_field_of_view_are_counted(scan: Path, tmp_path: Path, shift: float, outside: float) -> None:
    affine = THIN.copy()
    affine[0, 3] = shift
    # x = 3 to 16 in the mask's own voxels: by `shift` further right in the scan, which ends at 19.5.
    drawn = thin(*[(x, 5, 4) for x in (3, 6, 9, 16)])
    reader = reader_onto("FLAIR", {"FLAIR": scan}, {})
    mask, placing = reader.placed_mask("lesions", save(tmp_path / "m.nii", drawn, affine))
    assert placing is not None
    assert placing.outside == outside
    assert mask.data.sum() == placing.after.lesions == 4 - placing.lost == 4 * (1 - outside)


def test_a_mask_of_which_most_is_lost_is_refused_with_its_numbers(scan: Path, tmp_path: Path) -> None:
    drawn = thin((3, 3, 3), (6, 6, 3), (9, 9, 5), (12, 12, 4))  # the last alone is in the middle of a thick slice
    reader = reader_onto("FLAIR", {"FLAIR": scan}, {})
    with pytest.raises(
        DatasetError,
        match=r"m\.nii: on the grid of .*flair\.nii, 0% .*: 4 lesions of 0\.004 ml become 1 lesion of 0\.003",
    ) as caught:
        reader.mask("lesions", save(tmp_path / "m.nii", drawn, THIN))
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_voxels_are_boxes_at_the_border_of_the_field_of_view_as_well(scan: Path, tmp_path: Path) -> None:
    finer = np.diag([0.5, 0.5, 3.0, 1.0])
    finer[:2, 3] = -0.25  # the same field of view
    whole = np.ones((40, 48, 12), np.uint8)
    mask = reader_onto("FLAIR", {"FLAIR": scan}, {}).mask("brain", save(tmp_path / "b.nii", whole, finer))
    assert mask.data.all()
    coarser = np.diag([2.0, 2.0, 3.0, 1.0])
    coarser[:2, 3] = 0.5
    coarse = save(tmp_path / "c.nii", np.ones((10, 12, 12), np.uint8), coarser)
    assert reader_onto("FLAIR", {"FLAIR": scan}, {}).mask("brain", coarse).data.all()


def sliced(mask: np.ndarray, **recipe: Any) -> PreparedCase:
    grid = ScanGrid(mask.shape, np.diag([1.0, 2.0, 3.0, 1.0]), 1, 1)
    image = np.random.default_rng(0).normal(100, 5, mask.shape).astype(np.float32)
    return apply(SliceSchema(**recipe), {"FLAIR": Volume(image, grid)}, mask=Volume(mask, grid))


def slices_of(prepared: PreparedCase) -> np.ndarray:
    """(S, H, W), the mask that a shard would hold."""
    assert prepared.mask is not None
    return prepared.mask


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("size", [(20, 24, 12), (33, 24, 12), (10, 17, 7), (7, 7, 24)])
@pytest.mark.parametrize("axis", [0, 2])
def test_what_slices_keep_is_what_resampling_the_whole_mask_keeps(
    order: int, size: tuple[int, int, int], axis: int
) -> None:
    mask = ndimage.binary_dilation(np.random.default_rng(3).random(SHAPE) > 0.995)
    mask |= np.random.default_rng(4).random(SHAPE) > 0.99
    prepared = sliced(mask, size=size, mask_order=order, axis=axis)
    assert prepared.counts is not None
    assert prepared.counts.stored is not None
    corners = np.ones((3, 3, 3))
    voxel_ml = 0.006
    stored = np.moveaxis(slices_of(prepared), 0, axis)
    assert prepared.counts.drawn.lesions == ndimage.label(mask, corners)[1]
    assert prepared.counts.drawn.ml == pytest.approx(mask.sum() * voxel_ml)
    assert prepared.counts.scan == prepared.counts.drawn
    assert prepared.counts.stored.lesions == ndimage.label(stored, corners)[1]
    share = np.prod(SHAPE) / np.prod(size)
    assert prepared.counts.stored.ml == pytest.approx(stored.sum() * voxel_ml * share, abs=1e-6)
    if order == 0:
        # Another implementation of what is lost: each lesion resampled by itself.
        labels, number = ndimage.label(mask, corners)
        lost = sum(not slices_of(sliced(labels == one, size=size, axis=axis)).any() for one in range(1, number + 1))
        assert prepared.counts.lost_in_slices == lost
    if size == SHAPE:
        assert prepared.counts.warning() is None


def test_a_lesion_that_no_slice_keeps_is_a_warning_and_no_error() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = mask[9:12, 9:12, 3:6] = True
    # Twenty voxels to ten: place k takes voxel 2k + 1, and the voxel at 0 is never looked at.
    counts = sliced(mask, size=(10, 24, 12)).counts
    assert counts is not None
    assert (counts.lost_in_slices, counts.lost_on_scan) == (1, 0)
    # 28 voxels of 0.006 ml; of 9, 10, 11 the places of 9 and 11 are taken: 2 x 9 voxels of 0.012 ml.
    assert counts.warning() == ("2 lesions of 0.168 ml drawn, 1 lesion of 0.216 ml in the slices (1 lost)")


def test_lesions_in_slices_that_are_left_out_are_lost() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3:6, 3:6, 2] = mask[3:6, 3:6, 8] = True
    grid = ScanGrid(SHAPE, np.eye(4), 1, 1)
    image = np.random.default_rng(0).normal(100, 5, SHAPE).astype(np.float32)
    image[:, :, 7:] = 0
    recipe = SliceSchema(size=SHAPE, drop_slices_without_brain=True)
    counts = apply(recipe, {"FLAIR": Volume(image, grid)}, mask=Volume(mask, grid)).counts
    assert counts is not None
    assert counts.stored == LesionCount(lesions=1, ml=0.009)
    assert counts.lost_in_slices == 1


def case(scans: dict[str, str], lesions: str, *transforms: tuple[str, str], space: str | None = None) -> Case:
    found = tuple(Transform(moving, fixed, Path(f"{moving}-{fixed}.txt")) for moving, fixed in transforms)
    spaces = {} if space is None else {"lesions": space}
    return Case("s", "s", None, {k: Path(v) for k, v in scans.items()}, Path(lesions), None, found, spaces)


FLAIR = {"FLAIR": "sub-01_FLAIR.nii.gz"}
IN_MNI = {"FLAIR": "sub-01_space-MNI_FLAIR.nii.gz", "T1w": "sub-01_space-MNI_T1w.nii.gz"}


@pytest.mark.parametrize(
    ("one", "strays"),
    [
        (case(FLAIR, "m", space="MNI"), {"lesions": "MNI"}),
        (case(FLAIR, "m", ("FLAIR", "MNI"), space="MNI"), {}),
        (case(FLAIR, "m", ("MNI", "FLAIR"), space="MNI"), {}),
        (case(FLAIR, "m", ("T1w", "MNI"), space="MNI"), {"lesions": "MNI"}),
        (case(FLAIR, "m", ("T1w", "MNI"), ("T1w", "FLAIR"), space="MNI"), {}),
        (case(FLAIR, "m", space="common"), {"lesions": "common"}),
        (case(FLAIR, "m", space="T1w"), {}),
        (case(FLAIR, "m", space="orig"), {}),
        (case(FLAIR, "m"), {}),
        (case(IN_MNI, "m", space="MNI"), {}),
        (case(IN_MNI, "m"), {}),
        (case({**FLAIR, "T1w": "sub-01_space-MNI_T1w.nii.gz"}, "m"), {"T1w": "MNI"}),
        (case({**IN_MNI, "T1w": "sub-01_T1w.nii.gz"}, "m"), {"T1w": "T1w"}),
        (case({**FLAIR, "T1w": "sub-01_space-FLAIR_T1w.nii.gz"}, "m", ("T1w", "FLAIR")), {}),
    ],
)
def test_a_file_in_a_declared_space_strays_unless_something_leads_there(one: Case, strays: dict[str, str]) -> None:
    assert one.strays("FLAIR") == strays


def test_a_scan_that_was_put_into_the_references_space_does_not_go_through_the_transform_again() -> None:
    one = case({**FLAIR, "T1w": "sub-01_space-FLAIR_T1w.nii.gz"}, "m", ("T1w", "FLAIR"))
    assert one.transform_chains("FLAIR") == {}
    native = case({**FLAIR, "T1w": "sub-01_T1w.nii.gz"}, "m", ("T1w", "FLAIR"))
    assert native.transform_chains("FLAIR") == {"T1w": ((Path("T1w-FLAIR.txt"), False),)}
