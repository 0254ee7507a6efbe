"""mspipeline.metrics.overlap against hand-computed numbers and the identities between the scores."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mspipeline.errors import ShapeError
from mspipeline.metrics import overlap
from mspipeline.metrics.overlap import Counts, count

BoolArray = npt.NDArray[np.bool_]

numbers = st.integers(0, 10_000)
any_counts = st.builds(Counts, numbers, numbers, numbers, numbers)


@st.composite
def two_masks(draw: st.DrawFn) -> tuple[BoolArray, BoolArray]:
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    size = math.prod(shape)
    bits = st.lists(st.booleans(), min_size=size, max_size=size)
    return np.array(draw(bits), bool).reshape(shape), np.array(draw(bits), bool).reshape(shape)


def test_four_kinds_of_voxels_are_told_apart() -> None:
    truth = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 1]], bool)
    prediction = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    assert count(truth, prediction) == Counts(true_positive=2, false_positive=1, false_negative=2, true_negative=4)


def test_scores_of_a_hand_computed_table() -> None:
    counts = Counts(true_positive=6, false_positive=2, false_negative=4, true_negative=88)
    assert overlap.dice(counts) == 12 / 18
    assert overlap.iou(counts) == 0.5
    assert overlap.precision(counts) == 0.75
    assert overlap.recall(counts) == 0.6
    assert overlap.specificity(counts) == 88 / 90
    assert overlap.accuracy(counts) == 0.94
    assert overlap.volume_error_percent(counts) == -20.0


def test_too_large_a_prediction_has_a_positive_volume_error() -> None:
    assert overlap.volume_error_percent(Counts(true_positive=1, false_positive=3, false_negative=1)) == 100.0


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("dice", Counts(true_negative=9)),
        ("iou", Counts(true_negative=9)),
        ("precision", Counts(false_negative=3, true_negative=9)),
        ("recall", Counts(false_positive=3, true_negative=9)),
        ("specificity", Counts(true_positive=3, false_negative=9)),
        ("accuracy", Counts()),
        ("volume_error_percent", Counts(false_positive=3, true_negative=9)),
    ],
)
def test_nought_by_nought_is_nan(name: str, counts: Counts) -> None:
    assert math.isnan(getattr(overlap, name)(counts))


def test_a_missed_lesion_scores_zero_and_not_nan() -> None:
    missed = Counts(false_negative=3, true_negative=6)
    assert overlap.dice(missed) == overlap.iou(missed) == overlap.recall(missed) == 0.0


def test_counts_are_plain_integers_beyond_32_bits() -> None:
    part = Counts(2**31, 2**31, 2**31, 2**31)
    assert (part + part).true_positive == 2**32
    assert type(count(np.ones(3, bool), np.ones(3, bool)).true_positive) is int


def test_masks_of_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\) and prediction of shape \(3, 2\)"):
        count(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_a_mask_that_is_not_bool_is_refused() -> None:
    with pytest.raises(TypeError, match="uint8 and bool"):
        count(np.ones(3, np.uint8), np.ones(3, bool))


@given(any_counts)
def test_dice_and_iou_are_two_forms_of_one_score(counts: Counts) -> None:
    iou = overlap.iou(counts)
    assert overlap.dice(counts) == pytest.approx(2 * iou / (1 + iou), nan_ok=True)


@given(two_masks())
def test_counts_add_up_to_the_voxels(masks: tuple[BoolArray, BoolArray]) -> None:
    counts = count(*masks)
    total = counts.true_positive + counts.false_positive + counts.false_negative + counts.true_negative
    assert total == masks[0].size
    assert counts.true_negative == sum(not t and not p for t, p in zip(masks[0].flat, masks[1].flat, strict=True))


@given(two_masks(), st.integers(0, 5))
def test_counts_of_parts_add_up_to_those_of_the_whole(masks: tuple[BoolArray, BoolArray], cut: int) -> None:
    truth, prediction = masks
    assert count(truth[:cut], prediction[:cut]) + count(truth[cut:], prediction[cut:]) == count(truth, prediction)


@given(two_masks())
def test_dice_does_not_know_which_mask_is_the_truth(masks: tuple[BoolArray, BoolArray]) -> None:
    truth, prediction = masks
    forward, backward = overlap.dice(count(truth, prediction)), overlap.dice(count(prediction, truth))
    assert forward == backward or (math.isnan(forward) and math.isnan(backward))


def test_hard_slice_dice_by_hand() -> None:
    truth = np.array([[[1.0, 0.2, 0.0]], [[0, 0, 0]], [[0, 0, 0]]])
    probability = np.array([[[0.9, 0.1, 0.5]], [[0.1, 0.2, 0.3]], [[0.6, 0.2, 0.7]]])
    # slice 1: T = {0, 1}, P = {0, 2}: (2 + 1) / (2 + 2 + 1); 2: both empty: 1 / 1; 3: P = {0, 2}: 1 / (2 + 1)
    np.testing.assert_allclose(overlap.slice_dice_hard_smooth1(truth, probability, 0.5), [3 / 5, 1, 1 / 3])


def test_a_probability_at_the_threshold_is_lesion() -> None:
    truth = np.ones((1, 1, 1))
    assert overlap.slice_dice_hard_smooth1(truth, np.full((1, 1, 1), 0.5), 0.5) == 1.0
    assert overlap.slice_dice_hard_smooth1(truth, np.full((1, 1, 1), 0.499), 0.5) == 0.5


def test_soft_slice_dice_by_hand() -> None:
    truth = np.array([[[1.0, 0.5, 0.0]], [[0, 0, 0]]])
    probability = np.array([[[0.8, 0.4, 0.3]], [[0.5, 0, 0]]])
    # slice 1: 2 (0.8 + 0.2) + 1 = 3 by 1.5 + 1.5 + 1 = 4; slice 2: 1 by 0.5 + 1
    np.testing.assert_allclose(overlap.slice_dice_soft_smooth1(truth, probability), [3 / 4, 2 / 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_soft_slice_dice_takes_integer_and_bool_truth(dtype: npt.DTypeLike) -> None:
    truth = np.ones((1, 20, 20), dtype)
    probability = np.full((1, 20, 20), 0.5, np.float32)
    # 400 voxels: 2 * 200 + 1 by 400 + 200 + 1
    np.testing.assert_allclose(overlap.slice_dice_soft_smooth1(truth, probability), [401 / 601])


def test_slice_scores_want_three_axes_of_one_shape() -> None:
    with pytest.raises(ShapeError, match=r"expected \(N, H, W\)"):
        overlap.slice_dice_soft_smooth1(np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(ShapeError, match="back to the grid"):
        overlap.slice_dice_hard_smooth1(np.zeros((1, 3, 3)), np.zeros((1, 3, 2)), 0.5)
