"""`bce`: binary cross-entropy of probabilities."""

from __future__ import annotations

import numpy as np

from mspipeline.losses.probability import FloatArray, clipped, unclipped


def bce(mask: FloatArray, probability: FloatArray) -> float:
    """Binary cross-entropy, the mean over all voxels of the batch: -t log p - (1 - t) log(1 - p).

    p is clipped to [1e-7, 1 - 1e-7] first. (The 2021 report's PyEDDL sums over voxels instead.)

    >>> round(bce(np.array([1.0, 0.0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    p = clipped(probability)
    return float(-np.mean(mask * np.log(p) + (1 - mask) * np.log(1 - p)))


def bce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d bce / d probability; zero where the probability is clipped."""
    p = clipped(probability)
    gradient: FloatArray = unclipped(probability) * (p - mask) / (p * (1 - p)) / mask.size
    return gradient
