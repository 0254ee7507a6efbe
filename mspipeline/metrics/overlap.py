"""Overlap of a predicted mask with the truth, counted in voxels, and the 2021 report's two per-slice Dice scores.

The convention of the whole suite: a voxel counts as lesion where its probability >= threshold. What is undefined (0/0)
is NaN, so that callers count such cases apart; it is never 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Counts:
    """How many voxels of truth and prediction agree; the four add up to the voxels compared.

    `+` adds the counts of disjoint parts: those of slices give those of their volume.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )


def count(truth: BoolArray, prediction: BoolArray) -> Counts:
    """Compare two masks voxel by voxel.

    truth, prediction: bool, of one shape and any number of axes. Zero voxels give zero counts.
    Raises ShapeError where the shapes differ, TypeError where one is not bool.

    >>> count(np.array([1, 1, 0], bool), np.array([0, 1, 1], bool))
    Counts(true_positive=1, false_positive=1, false_negative=1, true_negative=0)
    """
    _same_shape(truth, prediction)
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise TypeError(f"masks of {truth.dtype} and {prediction.dtype}, expected bool; compare with a threshold first")
    both = int(np.count_nonzero(truth & prediction))
    in_truth = int(np.count_nonzero(truth))
    in_prediction = int(np.count_nonzero(prediction))
    return Counts(both, in_prediction - both, in_truth - both, truth.size - in_truth - in_prediction + both)


def dice(counts: Counts) -> float:
    """2TP / (2TP + FP + FN), in [0, 1]: Dice 1945, equal to F1. Truth and prediction both empty: NaN."""
    return _ratio(2 * counts.true_positive, 2 * counts.true_positive + counts.false_positive + counts.false_negative)


def iou(counts: Counts) -> float:
    """TP / (TP + FP + FN), in [0, 1]: Jaccard 1912. Truth and prediction both empty: NaN."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_positive + counts.false_negative)


def precision(counts: Counts) -> float:
    """TP / (TP + FP), in [0, 1]: positive predictive value. Empty prediction: NaN."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_positive)


def recall(counts: Counts) -> float:
    """TP / (TP + FN), in [0, 1]: sensitivity, true positive rate. Empty truth: NaN."""
    return _ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def specificity(counts: Counts) -> float:
    """TN / (TN + FP), in [0, 1]: true negative rate. Truth everywhere: NaN."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def accuracy(counts: Counts) -> float:
    """(TP + TN) / (TP + FP + FN + TN), in [0, 1]. No voxels: NaN."""
    right = counts.true_positive + counts.true_negative
    return _ratio(right, right + counts.false_positive + counts.false_negative)


def volume_error_percent(counts: Counts) -> float:
    """100 (V_prediction - V_truth) / V_truth = 100 (FP - FN) / (TP + FN), from -100 up: signed. Empty truth: NaN."""
    return _ratio(100 * (counts.false_positive - counts.false_negative), counts.true_positive + counts.false_negative)


def slice_dice_hard_smooth1(
    truth: npt.NDArray[Any], probability: npt.NDArray[Any], threshold: float
) -> npt.NDArray[np.float64]:
    """Dice of each slice as the 2021 report's PyEDDL side had it: (2 |T and P| + 1) / (|T| + |P| + 1).

    truth: (N, H, W), lesion where > 0. probability: (N, H, W), lesion where >= threshold. Returns (N,), in (0, 1].
    A slice without lesion that is predicted empty scores 1, so never compare the mean with the Dice of a volume.
    Raises ShapeError where the shapes differ or have not three axes.
    """
    _slices(truth, probability)
    lesion, predicted = truth > 0, probability >= threshold
    both = np.count_nonzero(lesion & predicted, axis=(1, 2))
    size = np.count_nonzero(lesion, axis=(1, 2)) + np.count_nonzero(predicted, axis=(1, 2))
    return np.asarray((2 * both + 1) / (size + 1), np.float64)


def slice_dice_soft_smooth1(truth: npt.NDArray[Any], probability: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Dice of each slice as the 2021 report's TensorFlow side had it: (2 sum(t p) + 1) / (sum(t) + sum(p) + 1).

    truth: (N, H, W), in [0, 1], as it is (the report's masks were fractional). probability: (N, H, W), in [0, 1], no
    threshold. Returns (N,), in (0, 1], summed in float64. Not the same score as `slice_dice_hard_smooth1`, and no
    more to be compared with the Dice of a volume.
    Raises ShapeError where the shapes differ or have not three axes.
    """
    _slices(truth, probability)
    product = np.einsum("nhw,nhw->n", truth, probability, dtype=np.float64)
    size = truth.sum(axis=(1, 2), dtype=np.float64) + probability.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray((2 * product + 1) / (size + 1), np.float64)


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan


def _slices(truth: npt.NDArray[Any], probability: npt.NDArray[Any]) -> None:
    _same_shape(truth, probability)
    if truth.ndim != 3:
        raise ShapeError(f"slices of shape {truth.shape}, expected (N, H, W)")


def _same_shape(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
    if truth.shape != prediction.shape:
        raise ShapeError(
            f"truth of shape {truth.shape} and prediction of shape {prediction.shape}; "
            "bring the prediction back to the grid of the truth first"
        )
