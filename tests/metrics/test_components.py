"""mspipeline.metrics.components on masks drawn by hand, and against scipy.ndimage.label."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from mspipeline.errors import ShapeError
from mspipeline.metrics.components import match

BoolArray = npt.NDArray[np.bool_]


def empty(*shape: int) -> BoolArray:
    return np.zeros(shape or (10, 10, 10), bool)


@pytest.mark.parametrize(("connectivity", "components"), [(6, 3), (18, 2), (26, 1)])
def test_edge_and_corner_neighbours_are_one_lesion_only_where_said(
    connectivity: Literal[6, 18, 26], components: int
) -> None:
    mask = empty()
    mask[1, 1, 1] = mask[2, 2, 1] = mask[3, 3, 2] = True  # an edge, then a corner
    assert len(match(mask, mask, connectivity=connectivity).truth) == components


def test_sizes_centroids_and_shared_voxels_by_hand() -> None:
    truth, prediction = empty(), empty()
    truth[2:5, 2, 2] = True  # 3 voxels, mean (3, 2, 2)
    truth[6:8, 6:8, 9] = True  # 4 voxels at the border, mean (6.5, 6.5, 9)
    prediction[4:7, 2, 2] = True  # shares one voxel with the first
    prediction[6, 6:8, 9] = True  # two with the second
    prediction[0, 0, 0] = True
    found = match(truth, prediction, connectivity=6)
    assert found.truth.sizes_vox.tolist() == [4, 3]
    assert found.truth.centroids_vox.tolist() == [[6.5, 6.5, 9], [3, 2, 2]]
    assert found.prediction.sizes_vox.tolist() == [3, 2, 1]
    assert found.prediction.centroids_vox.tolist() == [[5, 2, 2], [6, 6.5, 9], [0, 0, 0]]
    pairs = zip(found.pair_truth.tolist(), found.pair_prediction.tolist(), found.pair_vox.tolist(), strict=True)
    assert sorted(pairs) == [(0, 1, 2), (1, 0, 1)]
    assert found.truth_overlap_vox.tolist() == [2, 1]
    assert found.prediction_overlap_vox.tolist() == [1, 2, 0]


def test_components_of_one_size_are_in_the_order_of_their_first_voxel() -> None:
    mask = empty()
    mask[5, 1, 1] = mask[1, 8, 1] = mask[1, 2, 7] = True
    assert match(mask, mask, connectivity=6).truth.centroids_vox.tolist() == [[1, 2, 7], [1, 8, 1], [5, 1, 1]]


def test_opposite_borders_of_the_grid_do_not_touch() -> None:
    mask = empty()
    mask[0, 4, 4] = mask[9, 4, 4] = True
    assert len(match(mask, mask, connectivity=26).truth) == 2


def test_empty_masks_have_no_components() -> None:
    some = empty()
    some[3, 3, 3] = True
    for truth, prediction, sizes in ((empty(), empty(), (0, 0)), (some, empty(), (1, 0)), (empty(), some, (0, 1))):
        found = match(truth, prediction, connectivity=6)
        assert (len(found.truth), len(found.prediction)) == sizes
        assert len(found.pair_vox) == 0
        assert found.truth.centroids_vox.shape == (sizes[0], 3)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_noise_gives_what_scipy_labels(order: Literal["C", "F"], connectivity: Literal[6, 18, 26], rank: int) -> None:
    random = np.random.default_rng(0)
    truth, prediction = (np.asarray(random.random((17, 12, 23)) < 0.2, order=order) for _ in range(2))
    found = match(truth, prediction, connectivity=connectivity)
    structure = ndimage.generate_binary_structure(3, rank)
    labels: Any = ndimage.label(truth, structure)[0]
    others: Any = ndimage.label(prediction, structure)[0]
    expected = np.array([np.argwhere(labels == label).mean(axis=0) for label in range(1, labels.max() + 1)])
    centroids = found.truth.centroids_vox
    np.testing.assert_allclose(centroids[np.lexsort(centroids.T)], expected[np.lexsort(expected.T)], rtol=1e-12)
    assert sorted(found.truth.sizes_vox) == sorted(np.bincount(labels.ravel())[1:])
    keys, voxels = np.unique(labels * 10_000 + others, return_counts=True)
    shared = voxels[(keys >= 10_000) & (keys % 10_000 > 0)]
    assert sorted(found.pair_vox) == sorted(shared)
    overlaps = [int(prediction[labels == label].sum()) for label in range(1, labels.max() + 1)]
    assert sorted(found.truth_overlap_vox) == sorted(overlaps)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="back to the grid"):
        match(empty(2, 2, 2), empty(2, 2, 3), connectivity=6)
    with pytest.raises(ShapeError, match=r"expected \(X, Y, Z\)"):
        match(empty(2, 2), empty(2, 2), connectivity=6)
    with pytest.raises(TypeError, match="float32"):
        match(empty(2, 2, 2), np.zeros((2, 2, 2), np.float32), connectivity=6)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 1), (5, 1, 5), (9, 9, 9), (3, 4, 1)])
def test_as_many_components_as_a_grid_can_hold_are_found(
    shape: tuple[int, int, int], connectivity: Literal[6, 18, 26]
) -> None:
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    found = match(mask, mask, connectivity=connectivity)
    assert len(found.truth) == mask.sum()
    assert (found.truth.sizes_vox == 1).all()
