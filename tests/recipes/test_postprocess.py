from __future__ import annotations

import numpy as np
import pytest

from mspipeline.recipes.postprocess import lesion_mask
from mspipeline.volume import FloatArray


@pytest.fixture
def probability() -> FloatArray:
    """A line of 4 voxels, one of 3 with one of them at the threshold, and a voxel that touches it by an edge alone."""
    values = np.zeros((6, 6, 6), np.float32)
    values[0, 0, :4] = 0.9
    values[3, 3, 1:4] = (0.8, 0.5, 0.7)
    values[4, 4, 3] = 1.0
    values[5, 0, 0] = 0.499
    return values


def test_a_voxel_counts_from_the_threshold_on(probability: FloatArray) -> None:
    mask = lesion_mask(probability, threshold=0.5)
    assert mask.sum() == 4 + 3 + 1
    assert mask[3, 3, 2]
    assert not mask[5, 0, 0]


def test_the_threshold_is_a_float32_as_the_probabilities_are() -> None:
    assert lesion_mask(np.full((1, 1, 1), 0.8, np.float32), threshold=0.8).all()  # float32(0.8) > 0.8


@pytest.mark.parametrize(("larger_than", "voxels"), [(0, 8), (1, 7), (2, 7), (3, 4), (4, 0)])
def test_a_lesion_has_more_voxels_than_the_limit_and_edges_do_not_connect(
    probability: FloatArray, larger_than: int, voxels: int
) -> None:
    assert lesion_mask(probability, threshold=0.5, larger_than_vox=larger_than).sum() == voxels


def test_a_load_below_the_least_volume_is_none_and_one_at_it_is_kept(probability: FloatArray) -> None:
    at_limit = lesion_mask(probability, threshold=0.5, larger_than_vox=3, min_total_ml=0.008, voxel_ml=0.002)
    assert at_limit.sum() == 4
    assert not lesion_mask(probability, threshold=0.5, larger_than_vox=3, min_total_ml=0.009, voxel_ml=0.002).any()


def test_a_map_without_lesions_gives_an_empty_mask() -> None:
    mask = lesion_mask(np.zeros((2, 3, 4), np.float32), threshold=0.5, larger_than_vox=10, min_total_ml=0.5)
    assert mask.shape == (2, 3, 4)
    assert mask.dtype == bool
    assert not mask.any()
