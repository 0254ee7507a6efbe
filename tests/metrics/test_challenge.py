"""mspipeline.metrics.challenge against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mspipeline.metrics import challenge
from mspipeline.metrics.components import match
from mspipeline.metrics.overlap import Counts, dice


def test_lesion_rates_by_hand_and_by_connectivity() -> None:
    truth, prediction = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    truth[0, 0, 0:3] = truth[4, 4, 0:3] = truth[8, 8, 0:3] = True
    truth[5, 5, 2] = True  # touches the second by an edge
    prediction[0, 0, 2:6] = True  # one voxel is enough
    prediction[5, 5, 2] = prediction[7, 0, 0] = prediction[7, 0, 5] = True
    faces, edges = (match(truth, prediction, connectivity=c) for c in (6, 18))
    assert challenge.ltpr(faces) == 2 / 4
    assert challenge.ltpr(edges) == 2 / 3
    assert challenge.lfpr(faces) == challenge.lfpr(edges) == 2 / 4


def test_rates_of_empty_masks_are_nan() -> None:
    none, some = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    missed, invented = match(some, none, connectivity=18), match(none, some, connectivity=18)
    assert challenge.ltpr(missed) == 0
    assert math.isnan(challenge.lfpr(missed))
    assert math.isnan(challenge.ltpr(invented))
    assert challenge.lfpr(invented) == 1


def test_volume_correlation_by_hand() -> None:
    # Deviations (-2, 0, 2) and (-1, -1, 2): 6 / sqrt(8 * 6)
    assert challenge.volume_correlation([1, 3, 5], [2, 2, 5]) == pytest.approx(6 / math.sqrt(48))
    assert challenge.volume_correlation([1, 3, 5], [4, 10, 16]) == 1.0
    assert challenge.volume_correlation([1, 3], [5, 2]) == -1.0


@pytest.mark.parametrize(
    ("truth", "prediction"), [([], []), ([1], [1]), ([1, 2], [3, 3]), ([3, 3], [1, 2]), ([1, 2], [1, math.nan])]
)
def test_volumes_without_spread_have_no_correlation(truth: list[float], prediction: list[float]) -> None:
    assert math.isnan(challenge.volume_correlation(truth, prediction))


def test_a_volume_for_each_case_is_wanted() -> None:
    with pytest.raises(ValueError, match="2 true and 1 predicted"):
        challenge.volume_correlation([1, 2], [1])


def test_the_score_of_isbi2015_by_hand() -> None:
    score = challenge.isbi2015_score(dice=0.8, ppv=0.4, lfpr=0.2, ltpr=0.6, volume_correlation=0.9)
    assert score == pytest.approx(0.1 + 0.05 + 0.2 + 0.15 + 0.225)
    assert challenge.isbi2015_score(dice=1, ppv=1, lfpr=0, ltpr=1, volume_correlation=1) == 1
    assert math.isnan(challenge.isbi2015_score(dice=1, ppv=1, lfpr=math.nan, ltpr=1, volume_correlation=1))


def test_ndsc_by_hand() -> None:
    # V = 10 of N = 1010, so k = 0.999 * 10 / (0.001 * 1000) = 9.99
    counts = Counts(true_positive=6, false_positive=2, false_negative=4, true_negative=998)
    assert challenge.ndsc_shifts(counts) == pytest.approx(12 / (9.99 * 2 + 12 + 4))


def test_ndsc_at_the_load_of_the_case_is_dice() -> None:
    counts = Counts(true_positive=6, false_positive=3, false_negative=4, true_negative=87)
    assert challenge.ndsc_shifts(counts, load=0.1) == pytest.approx(dice(counts))


def test_ndsc_without_lesion_or_without_background_is_nan() -> None:
    assert math.isnan(challenge.ndsc_shifts(Counts(false_positive=3, true_negative=9)))
    assert math.isnan(challenge.ndsc_shifts(Counts(true_negative=9)))
    assert math.isnan(challenge.ndsc_shifts(Counts(true_positive=3, false_negative=9)))
    assert challenge.ndsc_shifts(Counts(false_negative=3, true_negative=9)) == 0
