"""Scores of a labelling with any number of classes, from its confusion matrix.

p[i, j] is the number of voxels of true class i that were called j. Class 0 is a class like the others: where lesions
fill a thousandth of the volume, the background is most of every score here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError
from mspipeline.metrics.overlap import Counts

IntArray = npt.NDArray[np.int64]


def confusion_matrix(truth: npt.NDArray[Any], prediction: npt.NDArray[Any], *, classes: int) -> IntArray:
    """(C, C) voxels of true class i called j, from two label images.

    truth, prediction: integers or bool in [0, classes), of one shape and any number of axes.
    Raises ShapeError where the shapes differ, TypeError where a label is not an integer, ValueError where one is not in
    [0, classes).

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    if truth.shape != prediction.shape:
        raise ShapeError(
            f"truth of shape {truth.shape} and prediction of shape {prediction.shape}; "
            "bring the prediction back to the grid of the truth first"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "biu":
            raise TypeError(f"{name} of {labels.dtype}, expected integer labels; take the most probable class first")
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"{name}: labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    pairs = truth.ravel().astype(np.int64) * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def of_counts(counts: Counts) -> IntArray:
    """(2, 2) matrix of a mask: class 0 the background, class 1 the lesion."""
    return np.array(
        [[counts.true_negative, counts.false_positive], [counts.false_negative, counts.true_positive]], np.int64
    )


def pixel_accuracy(matrix: IntArray) -> float:
    """PA = sum_i p_ii / sum_ij p_ij, in [0, 1] (Long 2015, "pixel accuracy"). No voxels: NaN."""
    return _ratio(np.trace(matrix), matrix.sum())


def mean_pixel_accuracy(matrix: IntArray) -> float:
    """MPA = mean over classes of p_ii / sum_j p_ij, in [0, 1] (Long 2015, "mean accuracy").

    A class that the truth lacks has no accuracy (0/0) and is left out of the mean. No voxels: NaN.
    """
    return _mean_ratio(np.diagonal(matrix), matrix.sum(axis=1))


def mean_iou(matrix: IntArray) -> float:
    """Mean over classes of p_ii / (sum_j p_ij + sum_j p_ji - p_ii), in [0, 1] (Long 2015, "mean IU").

    A class that truth and prediction both lack has no IoU (0/0) and is left out of the mean. No voxels: NaN.
    """
    return _mean_ratio(np.diagonal(matrix), _union(matrix))


def frequency_weighted_iou(matrix: IntArray) -> float:
    """FWIoU = sum_i (sum_j p_ij) IoU_i / sum_ij p_ij, in [0, 1] (Long 2015, "frequency weighted IU").

    A class that the truth lacks has weight 0, whatever its IoU. No voxels: NaN.
    """
    frequency, union = matrix.sum(axis=1), _union(matrix)
    present = frequency > 0
    weighted = frequency[present] * np.diagonal(matrix)[present] / union[present]
    return float(weighted.sum() / frequency.sum()) if present.any() else math.nan


def _union(matrix: IntArray) -> IntArray:
    return np.asarray(matrix.sum(axis=1) + matrix.sum(axis=0) - np.diagonal(matrix), np.int64)


def _ratio(numerator: np.int64, denominator: np.int64) -> float:
    return float(numerator / denominator) if denominator else math.nan


def _mean_ratio(numerators: IntArray, denominators: IntArray) -> float:
    defined = denominators > 0
    return float((numerators[defined] / denominators[defined]).mean()) if defined.any() else math.nan
