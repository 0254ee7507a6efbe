"""mspipeline.metrics.roc against numbers computed by hand and against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mspipeline.errors import ShapeError
from mspipeline.metrics.roc import roc_auc


def test_area_by_hand() -> None:
    # Pairs (lesion, background): 0.8 beats 0.7, 0.3, 0.1; 0.3 loses to 0.7, ties 0.3, beats 0.1: 4.5 of 6
    truth = np.array([1, 1, 0, 0, 0], bool)
    assert roc_auc(truth, np.array([0.8, 0.3, 0.7, 0.3, 0.1], np.float32)) == 4.5 / 6


def test_perfect_reversed_and_constant_maps() -> None:
    truth = np.zeros((4, 4, 4), bool)
    truth[1:3, 1, 1] = True
    assert roc_auc(truth, truth.astype(np.float32)) == 1.0
    assert roc_auc(truth, 1 - truth.astype(np.float32)) == 0.0
    assert roc_auc(truth, np.full(truth.shape, 0.2)) == 0.5


def test_one_class_alone_has_no_area() -> None:
    assert math.isnan(roc_auc(np.zeros(3, bool), np.ones(3)))
    assert math.isnan(roc_auc(np.ones(3, bool), np.ones(3)))
    assert math.isnan(roc_auc(np.ones(0, bool), np.ones(0)))


@given(st.integers(0, 10_000), st.integers(2, 14))
def test_it_is_the_share_of_pairs_ranked_right(seed: int, voxels: int) -> None:
    random = np.random.default_rng(seed)
    truth, probability = random.random(voxels) < 0.5, random.integers(0, 4, voxels) / np.float32(4)  # with ties
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(probability[truth], probability[~truth])]
    assert roc_auc(truth, probability) == pytest.approx(np.mean(pairs) if pairs else math.nan, nan_ok=True)


@pytest.mark.parametrize("at", [0, 2])
def test_nan_is_refused_in_lesion_and_background(at: int) -> None:
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    probability[at] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        roc_auc(np.array([1, 1, 0, 0], bool), probability)


def test_unfit_arrays_are_refused() -> None:
    with pytest.raises(ShapeError, match="one grid"):
        roc_auc(np.zeros(3, bool), np.zeros(4))
    with pytest.raises(TypeError, match="uint8"):
        roc_auc(np.zeros(3, np.uint8), np.zeros(3))
