"""Resampling over one field of view."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from mspipeline.errors import ShapeError
from mspipeline.preprocess.spatial import back_to_scan, coordinates, from_slices, resample, resample_labels, to_slices
from mspipeline.volume import ScanGrid


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def grid(*shape: int) -> ScanGrid:
    i, j, k = shape
    return ScanGrid((i, j, k), np.diag([-1.0, 1.0, 1.0, 1.0]), 1, 1)  # LAS


def test_voxels_are_boxes_over_the_same_field_of_view() -> None:
    assert coordinates(2, 4).tolist() == [-0.25, 0.25, 0.75, 1.25]
    assert coordinates(4, 2).tolist() == [0.5, 2.5]


def test_linear_values_between_two_voxels_by_hand() -> None:
    line = np.array([0, 8], np.float32).reshape(2, 1, 1)
    assert resample(line, (4, 1, 1), order=1).ravel().tolist() == [0, 2, 6, 8]


def test_nearest_repeats_each_voxel() -> None:
    line = np.array([3, 7], np.uint8).reshape(1, 1, 2)
    assert resample(line, (1, 1, 6), order=0).ravel().tolist() == [3, 3, 3, 7, 7, 7]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("size", [(16, 16, 16), (9, 13, 5), (5, 3, 31)])
def test_it_agrees_with_zoom_in_grid_mode(order: Literal[0, 1], size: tuple[int, int, int]) -> None:
    image = noise(7, 9, 11)
    factors = [N / n for n, N in zip(image.shape, size, strict=True)]
    expected = ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(resample(image, size, order=order), expected, atol=1e-5)


def test_a_plane_in_space_stays_that_plane_away_from_the_border() -> None:
    x, y, z = np.meshgrid(*(np.arange(n) + 0.5 for n in (10, 12, 8)), indexing="ij")
    image = (2 * x / 10 + 3 * y / 12 - z / 8).astype(np.float32)
    x, y, z = np.meshgrid(*((np.arange(n) + 0.5) / n for n in (25, 25, 25)), indexing="ij")
    result = resample(image, (25, 25, 25), order=1)
    inner = np.s_[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(result[inner], (2 * x + 3 * y - z)[inner], atol=1e-5)


def test_a_size_that_is_there_already_is_copied_bit_by_bit() -> None:
    image = noise(6, 5, 4)
    result = resample(image, (6, 5, 4), order=1)
    assert result.tobytes() == image.tobytes()
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize("order", [0, 1])
def test_rows_are_those_of_the_whole(order: Literal[0, 1]) -> None:
    image = noise(7, 9, 11)
    whole = resample(image, (20, 10, 10), order=order)
    part = resample(image, (20, 10, 10), order=order, rows=(6, 13))
    np.testing.assert_allclose(part, whole[6:13], atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_go_back_to_their_volume(axis: int) -> None:
    volume = noise(4, 5, 6)
    slices = to_slices(volume, axis)
    assert np.array_equal(slices[1], volume.take(1, axis=axis))
    assert np.array_equal(from_slices(slices, np.arange(len(slices), dtype=np.int32), (4, 5, 6), axis), volume)


def test_slices_that_were_left_out_are_zero() -> None:
    volume = from_slices(np.ones((2, 3, 3), np.float32), np.array([1, 3], np.int32), (3, 3, 5), 2)
    assert volume.sum(axis=(0, 1)).tolist() == [0, 9, 0, 9, 0]


def test_slices_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"2 slices of \(3, 4\) .* do not fit a volume of \(3, 3, 5\)"):
        from_slices(np.ones((2, 3, 4), np.float32), np.array([1, 3], np.int32), (3, 3, 5), 2)


def test_the_way_back_has_the_scans_shape_and_keeps_a_smooth_map() -> None:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (21, 25, 18)), indexing="ij")
    smooth = np.exp(-2 * (x**2 + y**2 + z**2)).astype(np.float32)
    there = resample(smooth, (48, 48, 48), order=1)
    back = back_to_scan(there, (48, 48, 48), grid(21, 25, 18))
    assert back.shape == (21, 25, 18)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, smooth, atol=0.02)


def test_values_of_another_grid_are_refused_on_the_way_back() -> None:
    with pytest.raises(ShapeError, match="not on the resampled grid"):
        back_to_scan(noise(4, 4, 4), (8, 8, 8), grid(5, 5, 5))


def test_label_maps_are_resampled_to_their_own_numbers_by_the_largest_share() -> None:
    line = np.array([0, 0, 1, 1, 3, 3, 3, 0], np.uint8).reshape(8, 1, 1)
    nearest = resample_labels(line, (4, 1, 1), (1, 2, 3), order=0, rows=(0, 4))
    assert nearest.dtype == np.uint8
    assert set(nearest.ravel()) <= {0, 1, 3}
    # Each place lies between two voxels: of 1 and 3 no mean, and of label and background the label.
    linear = resample_labels(line, (4, 1, 1), (1, 2, 3), order=1, rows=(0, 4))
    assert linear.ravel().tolist() == [0, 1, 3, 3]
    between = np.array([1, 3], np.uint8).reshape(2, 1, 1)
    assert resample_labels(between, (1, 1, 1), (1, 2, 3), order=1, rows=(0, 1)).ravel().tolist() == [3]


def test_of_one_label_that_is_the_cut_at_one_half() -> None:
    mask = (np.random.default_rng(0).random((9, 7, 5)) < 0.4).astype(np.uint8)
    for size in ((13, 4, 10), (18, 14, 5)):
        cut = resample(mask.astype(np.float32), size, order=1) >= 0.5
        assert np.array_equal(resample_labels(mask, size, (1,), order=1, rows=(0, size[0])), cut)
