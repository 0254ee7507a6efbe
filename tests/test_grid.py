"""Orientation of grids, and when two of them are one: against nibabel, and where nibabel decides by a tie."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from scipy.spatial.transform import Rotation

from mspipeline.grid import ScanGrid, apart, closest_orientation
from mspipeline.volume import load_volume

SHAPE = (4, 5, 6)
TURNS = [
    np.array(list(zip(order, signs, strict=True)))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
ANGLES = st.floats(-180, 180)
SIZES = st.tuples(*[st.floats(0.3, 6)] * 3)


def affine_of(angles: tuple[float, float, float], sizes: tuple[float, float, float]) -> np.ndarray:
    """(4, 4) from Euler angles in degrees and voxel sizes in mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * sizes
    affine[:3, 3] = (-31.5, 17.25, 4.0)
    return affine


def stored(affine: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The affine and shape of the same voxels with their axes stored in another order and direction."""
    data = orientations.apply_orientation(np.zeros(SHAPE, np.uint8), turn)
    return affine @ orientations.inv_ornt_aff(turn, SHAPE), data.shape


def fit(affine: np.ndarray, orientation: np.ndarray) -> float:
    """Sum of the cosines between a file's axes, freed of shear, and those of the world that they are taken for."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return float(sum(abs((left @ right)[int(target), axis]) for axis, (target, _) in enumerate(orientation)))


@settings(deadline=None)
@given(st.tuples(ANGLES, ANGLES, ANGLES), SIZES)
def test_the_closest_axes_are_nibabels_or_closer(
    angles: tuple[float, float, float], sizes: tuple[float, float, float]
) -> None:
    affine = affine_of(angles, sizes)
    ours, theirs = np.array(closest_orientation(affine)), nib.io_orientation(affine)
    assert sorted(ours[:, 0]) == [0, 1, 2]
    assert fit(affine, ours) > fit(affine, theirs) - 2e-5
    canonical = affine @ orientations.inv_ornt_aff(ours, SHAPE)
    assert (np.diag(canonical[:3, :3]) >= -1e-9).all()


@settings(deadline=None)
@given(st.tuples(*[st.floats(-40, 40)] * 3).filter(lambda a: sum(abs(x) for x in a) < 42), SIZES)
def test_of_a_scan_that_is_not_far_from_upright_they_are_nibabels(
    angles: tuple[float, float, float], sizes: tuple[float, float, float]
) -> None:
    for turn in TURNS[::5]:
        affine, _ = stored(affine_of(angles, sizes), turn)
        assert np.array_equal(closest_orientation(affine), nib.io_orientation(affine))


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (7, -12, 31), (0, 0, 45), (45, 0, 0), (0, -45, 0), (45, 0, 45), (0, 0, 135)]
)
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_scan_has_one_canonical_grid_however_it_is_stored(angles: tuple[float, float, float], noise: float) -> None:
    affine = affine_of(angles, (1, 1.2, 3))
    first = ScanGrid(SHAPE, affine, 1, 1)
    random = np.random.default_rng(0)
    for turn in TURNS:
        other, shape = stored(affine, turn)
        i, j, k = shape
        other[:3, :3] += noise * random.standard_normal((3, 3))
        grid = ScanGrid((i, j, k), other, 1, 1)
        assert grid.same_as(first)
        assert np.allclose(grid.affine_ras, first.affine_ras, atol=1e-5)


def write(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.mark.parametrize("apart_degrees", [1e-5, 1e-3, 0.02])
def test_a_file_is_turned_as_the_scan_of_its_case_even_where_each_alone_would_not_be(
    tmp_path: Path, apart_degrees: float
) -> None:
    data = np.arange(120, dtype=np.float32).reshape(SHAPE)
    for turn in TURNS[::7]:
        scan = affine_of((0, 0, 45 - apart_degrees / 2), (1, 1, 3))
        near, _ = stored(affine_of((0, 0, 45 + apart_degrees / 2), (1, 1, 3)), turn)
        one = load_volume(write(tmp_path / "a.nii", data, scan))
        turned = orientations.apply_orientation(data, turn)
        other = load_volume(write(tmp_path / "b.nii", np.ascontiguousarray(turned), near), like=one.grid)
        assert np.array_equal(one.data, other.data)
        assert other.grid is one.grid


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tenth_of_a_voxel_along_each_axis_is_one_grid_and_more_is_not(axis: int) -> None:
    affine = affine_of((3, 4, 5), (0.7, 1, 3))
    grid = ScanGrid(SHAPE, affine, 1, 1)
    for share, same in ((0.09, True), (0.11, False)):
        moved = affine.copy()
        moved[:3, 3] += affine[:3, axis] * share
        other = ScanGrid(SHAPE, moved, 1, 1)
        assert other.same_as(grid) == same
        assert (other.turn_onto(grid) is not None) == same
        assert other.offset_mm(grid) == pytest.approx(share * (0.7, 1, 3)[axis])
    assert apart(grid, other) == f"up to {0.11 * (0.7, 1, 3)[axis]:.3g} mm apart"


def test_an_orthogonal_affine_beside_a_sheared_one_is_said_in_millimetres() -> None:
    # Numbers of a public thread: the sform of a scan, and what another program made of it.
    rows = [[0.99955683, -4.23e-05, 0.02976818], [0.00232101, 0.99706551, -0.07651789]]
    others = [[0.99955753, 0.00113935, 0.0297229], [0.00113935, 0.99706621, -0.07653551]]
    sheared, orthogonal = np.eye(4), np.eye(4)
    sheared[:3, :3] = np.array([*rows, [-0.02967759, 0.07655306, 0.99662373]]) * (3.5, 3.5, 7)
    orthogonal[:3, :3] = np.array([*others, [-0.0297229, 0.07653551, 0.99662373]]) * (3.5, 3.5, 7)
    one, other = (ScanGrid((64, 64, 20), affine, 1, 1) for affine in (sheared, orthogonal))
    # The corner (63, 63, 0) by hand: 63 * 3.5 mm of 1.18e-3 in two directions.
    assert other.offset_mm(one) == pytest.approx(63 * 3.5 * 0.00118 * 2**0.5, rel=0.02)
    assert other.turn_onto(one) is not None


def test_other_shapes_and_other_angles_are_other_grids() -> None:
    grid = ScanGrid(SHAPE, np.eye(4), 1, 1)
    assert ScanGrid((4, 5, 7), np.eye(4), 1, 1).offset_mm(grid) is None
    assert apart(grid, ScanGrid((4, 5, 7), np.eye(4), 1, 1)) == "of other shapes"
    for angles in ((0, 0, 20), (0, 0, 45), (30, 30, 30)):
        turned = ScanGrid(SHAPE, affine_of(angles, (1, 1, 1)), 1, 1)
        assert turned.turn_onto(grid) is None
        assert not turned.same_as(grid)


def test_a_stored_grid_comes_back_and_one_of_an_earlier_version_keeps_its_orientation() -> None:
    affine = affine_of((0, 0, 45), (1, 1, 3))
    grid = ScanGrid(SHAPE, affine, 1, 2)
    document = grid.to_json()
    back = ScanGrid.from_json(document)
    assert np.array_equal(back.affine_ras, grid.affine_ras)
    assert (back.shape, back.qform_code, back.sform_code) == (SHAPE, 1, 2)
    del document["orientation"]
    assert np.array_equal(ScanGrid.from_json(document).to_canonical, nib.io_orientation(affine))
