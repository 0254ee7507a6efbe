"""`categorical_ce`: cross-entropy of a softmax's probabilities."""

from __future__ import annotations

import numpy as np

from mspipeline.losses.probability import FloatArray, clipped, unclipped, voxels_of


def categorical_ce(mask: FloatArray, probability: FloatArray) -> float:
    """Cross-entropy of a softmax's probabilities: -log p of the truth, the mean over voxels, or patches, of a batch.

    p is clipped to [1e-7, 1 - 1e-7] first, and not divided by its sum.

    >>> round(categorical_ce(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.75, 0.25]])), 4)
    0.4904
    """
    return float(-np.mean(np.sum(mask * np.log(clipped(probability)), axis=-1)))


def categorical_ce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d categorical_ce / d probability; zero where the probability is clipped."""
    gradient: FloatArray = unclipped(probability) * -mask / clipped(probability) / voxels_of(mask)
    return gradient
