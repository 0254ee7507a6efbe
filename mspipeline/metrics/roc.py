"""Area under the ROC curve of a probability map."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError


def roc_auc(truth: npt.NDArray[np.bool_], probability: npt.NDArray[Any]) -> float:
    """Probability that a lesion voxel ranks above a background voxel, ties counting half, in [0, 1] (Hanley 1982).

    truth: bool; probability: floats of the same shape; any number of axes. All voxels given take part: the more easy
    background there is, the nearer to 1. Truth empty or everywhere: NaN.
    Raises ShapeError where the shapes differ, TypeError where truth is not bool, ValueError where a probability is NaN.

    >>> roc_auc(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.4, 0.4, 0.1]))
    0.875
    """
    if truth.shape != probability.shape:
        raise ShapeError(f"truth of shape {truth.shape}, probability of shape {probability.shape}, expected one grid")
    if truth.dtype != np.bool_:
        raise TypeError(f"truth of {truth.dtype}, expected bool; compare with a threshold first")
    lesion, background = probability[truth], np.sort(probability[~truth])
    if np.isnan(lesion).any() or np.isnan(background[-1:]).any():  # sorting puts NaN last
        raise ValueError("a probability is NaN, so it has no rank; look for the layer that made it")
    if not lesion.size or not background.size:
        return math.nan
    # The Mann-Whitney statistic U: only the background is sorted, because NumPy sorts floats faster than it ranks them.
    below = np.searchsorted(background, lesion, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(background, lesion, side="right").sum(dtype=np.int64)
    return (int(below) + int(not_above)) / (2 * lesion.size * background.size)
