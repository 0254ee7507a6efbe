"""The losses, once, in NumPy: what every backend's own is tested against, with their gradients.

Probabilities and masks are (N, H, W, 1) or any equal shapes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

PROBABILITY_FLOOR = 1e-7
DICE_SMOOTH = 1.0


def bce(mask: FloatArray, probability: FloatArray) -> float:
    """Binary cross-entropy, the mean over all voxels of the batch: -t log p - (1 - t) log(1 - p).

    p is clipped to [1e-7, 1 - 1e-7] first. (The 2021 report's PyEDDL sums over voxels instead.)

    >>> round(bce(np.array([1.0, 0.0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    p = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return float(-np.mean(mask * np.log(p) + (1 - mask) * np.log(1 - p)))


def bce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d bce / d probability; zero where the probability is clipped."""
    p = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    inside = (probability >= PROBABILITY_FLOOR) & (probability <= 1 - PROBABILITY_FLOOR)
    gradient: FloatArray = inside * (p - mask) / (p * (1 - p)) / mask.size
    return gradient


def dice(mask: FloatArray, probability: FloatArray) -> float:
    """Soft Dice loss over all voxels of the batch: 1 - (2 sum(t p) + 1) / (sum(t) + sum(p) + 1).

    After Milletari et al. 2016, without the squares.

    >>> dice(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    0.33333333333333337
    """
    overlap = float(np.sum(mask * probability))
    return 1 - (2 * overlap + DICE_SMOOTH) / (float(np.sum(mask) + np.sum(probability)) + DICE_SMOOTH)


def dice_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d dice / d probability."""
    numerator = 2 * np.sum(mask * probability) + DICE_SMOOTH
    denominator = np.sum(mask) + np.sum(probability) + DICE_SMOOTH
    gradient: FloatArray = (numerator - 2 * mask * denominator) / denominator**2
    return gradient
