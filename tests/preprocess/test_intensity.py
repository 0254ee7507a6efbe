"""Statistics over the brain, and the normalised image."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.errors import VolumeError
from mspipeline.preprocess.intensity import normalise, statistics

IMAGE = np.array([[[0, -2], [4, 7], [0, 100]]], np.float32)
BRAIN = np.array([[[0, 1], [1, 1], [0, 0]]], bool)


def test_mean_and_deviation_are_of_the_brain_voxels_alone() -> None:
    stats = statistics(IMAGE, BRAIN, name="x")
    assert stats.mean == 3  # (-2 + 4 + 7) / 3
    assert stats.std == pytest.approx(np.sqrt(14))  # (25 + 1 + 16) / 3


def test_a_million_voxels_far_from_zero_lose_no_digits() -> None:
    image = np.full((100, 100, 100), 16_777_000, np.float32)
    image[::2] += 8
    stats = statistics(image, np.ones(image.shape, bool), name="x")
    assert stats.mean == 16_777_004
    assert stats.std == 4


def test_outside_the_brain_is_zero_where_asked_for() -> None:
    inside = normalise(IMAGE, BRAIN, shift=3, scale=2, zero_outside=True)
    assert inside.tolist() == [[[0, -2.5], [0.5, 2], [0, 0]]]
    assert inside.dtype == np.float32
    everywhere = normalise(IMAGE, BRAIN, shift=3, scale=2, zero_outside=False)
    assert everywhere.tolist() == [[[-1.5, -2.5], [0.5, 2], [-1.5, 48.5]]]


def test_the_scan_is_not_changed() -> None:
    before = IMAGE.copy()
    normalise(IMAGE, BRAIN, shift=3, scale=2, zero_outside=True)
    assert np.array_equal(IMAGE, before)


def test_a_constant_image_and_an_empty_brain_are_refused_by_name() -> None:
    with pytest.raises(VolumeError, match=r"a\.nii: constant: all 3 brain voxels are 0\.1"):
        statistics(np.full((1, 3, 2), 0.1, np.float32), BRAIN, name="a.nii")
    with pytest.raises(VolumeError, match=r"a\.nii: no brain voxel"):
        statistics(IMAGE, np.zeros_like(BRAIN), name="a.nii")
