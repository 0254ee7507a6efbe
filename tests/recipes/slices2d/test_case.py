"""A case's slices, resampled in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from mspipeline.recipes.slices2d.prepare import apply
from tests.preprocess.brain_block import SHAPE, recipe, scan, volume


@pytest.mark.parametrize(("axis", "shape"), [(0, (7, 5)), (1, (6, 5)), (2, (6, 7))])
def test_slices_are_those_of_the_axis(axis: int, shape: tuple[int, int]) -> None:
    lesions = np.zeros(SHAPE, bool)
    lesions[2, 3, 2] = True
    prepared = apply(recipe(axis=axis, normalisation="none"), {"FLAIR": volume(scan())}, mask=volume(lesions))
    images, mask = prepared.images, prepared.mask
    assert images.shape == (SHAPE[axis], *shape, 1)
    for place in range(SHAPE[axis]):
        assert np.array_equal(images[place, :, :, 0], scan().take(place, axis=axis))
        assert mask is not None
        assert np.array_equal(mask[place], lesions.take(place, axis=axis))


def test_channels_come_in_the_recipes_order_each_normalised_by_itself() -> None:
    first, second = scan(1), scan(2) * 100
    prepared = apply(recipe(modalities=("T2w", "FLAIR")), {"FLAIR": volume(first), "T2w": volume(second)})
    channels = np.moveaxis(prepared.images, 0, 2)  # (S,H,W,C) -> (H,W,S,C)
    assert np.array_equal(channels[..., 0], prepared.scans["T2w"])
    assert np.array_equal(channels[..., 1], prepared.scans["FLAIR"])
    assert channels[..., 0][second != 0].std() == pytest.approx(1, abs=1e-5)


def test_the_values_do_not_depend_on_the_number_of_threads() -> None:
    prepared = apply(recipe(size=(20, 20, 70)), {"FLAIR": volume(scan())})
    one = np.concatenate([block.images for block in prepared.blocks(threads=1)])
    four = np.concatenate([block.images for block in prepared.blocks(threads=4)])
    assert [block.first for block in prepared.blocks(threads=4)] == [0, 16, 32, 48, 64]
    assert one.tobytes() == four.tobytes() == prepared.images.tobytes()


def test_a_mask_resampled_linearly_is_cut_at_one_half() -> None:
    lesions = np.zeros(SHAPE, bool)
    lesions[2, 3, 2] = True
    nearest = apply(recipe(size=(18, 21, 15)), {"FLAIR": volume(scan())}, mask=volume(lesions)).mask
    linear = apply(recipe(size=(18, 21, 15), mask_order=1), {"FLAIR": volume(scan())}, mask=volume(lesions)).mask
    assert nearest is not None
    assert linear is not None
    assert nearest.sum() == 27
    # Of the 27 voxels one third apart, 1 has weight 1, 6 have 2/3, 12 have 4/9 and 8 have 8/27.
    assert linear.sum() == 7
    assert set(np.unique(linear)) == {0, 1}
