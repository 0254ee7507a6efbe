"""Each rule of mspipeline.metrics.msseg on lines of voxels, where every share can be counted on the page.

A lesion is a stretch of a row; rows two apart do not touch. Voxels are 1 mm^3 unless said otherwise.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.metrics.components import match
from mspipeline.metrics.msseg import Detection, detect

BoolArray = npt.NDArray[np.bool_]


def mask(*stretches: tuple[int, int, int]) -> BoolArray:
    """(row, first, last) voxels of a (9, 9, 100) grid, last included."""
    voxels = np.zeros((9, 9, 100), bool)
    for row, first, last in stretches:
        voxels[row, 4, first : last + 1] = True
    return voxels


def detected(truth: BoolArray, prediction: BoolArray, voxel_mm3: float = 1.0) -> Detection:
    return detect(match(truth, prediction, connectivity=6), voxel_mm3=voxel_mm3)


def test_more_than_a_tenth_must_be_predicted() -> None:
    truth = mask((0, 0, 39))  # 40 voxels
    assert detected(truth, mask((0, 0, 4))).truth_detected.tolist() == [True]  # 5 of 40
    assert detected(truth, mask((0, 0, 3))).truth_detected.tolist() == [False]  # 4 of 40: exactly a tenth


def test_a_prediction_that_lies_over_seven_tenths_outside_fails_the_lesion() -> None:
    truth = mask((0, 0, 9))
    assert detected(truth, mask((0, 7, 16))).truth_detected.tolist() == [True]  # 7 of 10 outside
    assert detected(truth, mask((0, 7, 17))).truth_detected.tolist() == [False]  # 8 of 11 outside


def test_components_past_the_sufficient_share_of_the_overlap_are_not_looked_at() -> None:
    truth = mask((0, 0, 19))  # 20 voxels, a bad prediction at its end: 4 inside, 76 outside
    bad = (0, 16, 95)
    assert detected(truth, mask((0, 0, 7), bad)).truth_detected.tolist() == [True]  # 8 of 12: two thirds come first
    assert detected(truth, mask((0, 0, 6), bad)).truth_detected.tolist() == [False]  # 7 of 11: 63.6 %, so it is next


def test_exactly_the_sufficient_share_is_enough() -> None:
    truth = mask((0, 0, 29))  # overlap 13 + 7 = 20: 13 is 65 %
    assert detected(truth, mask((0, 0, 12), (0, 23, 99))).truth_detected.tolist() == [True]
    assert detected(truth, mask((0, 1, 12), (0, 23, 99))).truth_detected.tolist() == [False]  # 12 of 19: 63.2 %


def test_a_lesion_hit_by_two_good_predictions_is_detected_and_both_are_confirmed() -> None:
    result = detected(mask((0, 0, 19)), mask((0, 0, 5), (0, 10, 15)))
    assert (result.sensl, result.ppvl, result.f1) == (1, 1, 1)
    assert result.predicted_lesions == 2


def test_a_third_prediction_on_a_single_lesion_is_looked_at() -> None:
    # Overlaps 5, 5, 4, 4 of 18: two make up 56 %, so a third is visited, and of the two left the bad one comes first.
    # Anima stops after two here, because the truth has one lesion.
    good = ((0, 0, 4), (0, 10, 14), (0, 20, 23))
    assert detected(mask((0, 0, 39)), mask(*good, (0, 36, 99))).truth_detected.tolist() == [False]
    assert detected(mask((0, 0, 39)), mask(*good, (0, 36, 45))).truth_detected.tolist() == [True]


def test_of_equal_overlaps_the_one_farther_outside_comes_first_whatever_the_direction() -> None:
    # Four predictions of 4 voxels inside: three are visited (75 %), so with one bad one a free order could pass.
    truth = mask((0, 0, 39))
    bad_last = mask((0, 0, 3), (0, 10, 13), (0, 20, 23), (0, 36, 99))
    assert detected(truth, bad_last).truth_detected.tolist() == [False]
    assert detected(truth[..., ::-1], bad_last[..., ::-1]).truth_detected.tolist() == [False]


def test_each_lesion_is_judged_by_its_own_overlaps() -> None:
    truth = mask((0, 0, 19), (2, 0, 9))  # the first is found whole; the second by 5 voxels of 25
    assert detected(truth, mask((0, 0, 19), (2, 5, 29))).truth_detected.tolist() == [True, False]


def test_components_of_3_mm3_or_less_are_background_in_both_masks() -> None:
    result = detected(mask((0, 0, 2), (2, 0, 3)), mask((0, 0, 3), (2, 0, 2)))  # truth 3 and 4, prediction 4 and 3
    assert result.truth_counted.tolist() == [True, False]
    assert result.prediction_counted.tolist() == [True, False]
    assert (result.truth_lesions, result.predicted_lesions) == (1, 1)
    assert (result.sensl, result.ppvl, result.f1) == (0, 0, 0)  # what lay on them lies on background now


def test_the_least_volume_is_in_mm3_and_not_in_voxels() -> None:
    three, ten, eleven = mask((0, 0, 2)), mask((0, 0, 9)), mask((0, 0, 10))
    assert detected(three, three, voxel_mm3=1.5).truth_lesions == 1
    thin = float(np.float32(0.3))  # 0.30000001: ten voxels are meant to be 3 mm^3
    assert detected(ten, ten, voxel_mm3=thin).truth_lesions == 0
    assert detected(eleven, eleven, voxel_mm3=thin).truth_lesions == 1


def test_scores_by_hand_and_the_roles_swapped() -> None:
    truth = mask((0, 0, 9), (2, 0, 9), (4, 0, 9))
    prediction = mask((0, 0, 9), (2, 9, 30), (6, 0, 9), (8, 0, 9), (8, 20, 29))
    result = detected(truth, prediction)
    assert result.sensl == 1 / 3  # the second has exactly a tenth predicted, the third nothing
    assert result.ppvl == 1 / 5
    assert result.f1 == pytest.approx(2 * (1 / 3) * (1 / 5) / (1 / 3 + 1 / 5))


def test_an_empty_truth_gives_number_and_volume_and_no_scores() -> None:
    result = detected(mask(), mask((0, 0, 9), (2, 0, 4), (4, 0, 0)), voxel_mm3=2.0)
    assert (result.predicted_lesions, result.predicted_mm3) == (2, 30.0)  # the single voxel of 2 mm^3 does not count
    assert all(math.isnan(score) for score in (result.sensl, result.ppvl, result.f1))


def test_a_truth_of_crumbs_only_is_an_empty_truth() -> None:
    result = detected(mask((0, 0, 1)), mask((0, 0, 9)))
    assert math.isnan(result.sensl)
    assert math.isnan(result.f1)


def test_an_empty_prediction_detects_nothing_and_has_no_ppvl() -> None:
    result = detected(mask((0, 0, 9)), mask())
    assert (result.sensl, result.f1) == (0.0, 0.0)
    assert math.isnan(result.ppvl)
    assert result.predicted_mm3 == 0


def test_other_connectivities_are_refused() -> None:
    with pytest.raises(ValueError, match="connectivity 18, expected 6"):
        detect(match(mask(), mask(), connectivity=18), voxel_mm3=1.0)
