"""`weighted_ce`: cross-entropy with a weight per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mspipeline.errors import ShapeError
from mspipeline.losses.probability import FloatArray, clipped, unclipped, voxels_of


def weighted_ce(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> float:
    """Cross-entropy with a weight per class w_c, the mean over all voxels of the batch: -sum over c of w_c t_c log p_c.

    Ronneberger et al. 2015, equation 1, with a weight map that is constant in each class. It is divided by the number
    of voxels, not by the sum of their weights: weights of 1 give the unweighted loss, and a batch without lesions has a
    small loss, not a normalised one. p is clipped to [1e-7, 1 - 1e-7] first.

    class_weights: background first, one per class; two of them, (background, lesion), beside one sigmoid probability
    (..., 1), whose background has 1 - p. Raises ShapeError where their number is another.

    >>> round(weighted_ce(np.array([[1.0], [0.0]]), np.array([[0.5], [0.25]]), (0.05, 0.95)), 4)
    0.3364
    """
    weights, p = _class_weights(probability, class_weights), clipped(probability)
    if p.shape[-1] == 1:
        return float(-np.mean(weights[1] * mask * np.log(p) + weights[0] * (1 - mask) * np.log(1 - p)))
    return float(-np.mean(np.sum(weights * mask * np.log(p), axis=-1)))


def weighted_ce_gradient(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> FloatArray:
    """d weighted_ce / d probability; zero where the probability is clipped."""
    weights, p = _class_weights(probability, class_weights), clipped(probability)
    slope = weights[0] * (1 - mask) / (1 - p) - weights[1] * mask / p if p.shape[-1] == 1 else -weights * mask / p
    gradient: FloatArray = unclipped(probability) * slope / voxels_of(mask)
    return gradient


def _class_weights(probability: FloatArray, class_weights: Sequence[float]) -> FloatArray:
    classes = max(2, probability.shape[-1])
    if len(class_weights) != classes:
        raise ShapeError(f"weighted_ce: {len(class_weights)} class weights for {classes} classes; give one per class")
    weights: FloatArray = np.asarray(class_weights, probability.dtype)
    return weights
