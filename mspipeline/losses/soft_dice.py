"""`dice`: soft Dice over all voxels of a batch."""

from __future__ import annotations

import numpy as np

from mspipeline.losses.probability import FloatArray

DICE_SMOOTH = 1.0


def dice(mask: FloatArray, probability: FloatArray) -> float:
    """Soft Dice loss over all voxels of the batch: 1 - (2 sum(t p) + 1) / (sum(t) + sum(p) + 1).

    After Milletari et al. 2016, without the squares. Of a batch without lesions the smallest value, 0, is that of an
    empty prediction: means over such batches favour a network that finds nothing. So scores of a whole pass are taken
    of the pass's sums, see `dice_of_sums`.

    >>> dice(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    0.33333333333333337
    """
    return dice_of_sums(float(np.sum(mask * probability)), float(np.sum(mask)), float(np.sum(probability)))


def dice_of_sums(overlap: float, truth: float, found: float) -> float:
    """`dice` of sums over voxels: of t p, of t and of p.

    >>> dice_of_sums(0.5, 1.0, 1.0)
    0.33333333333333337
    """
    return 1 - (2 * overlap + DICE_SMOOTH) / (truth + found + DICE_SMOOTH)


def dice_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d dice / d probability."""
    numerator = 2 * np.sum(mask * probability) + DICE_SMOOTH
    denominator = np.sum(mask) + np.sum(probability) + DICE_SMOOTH
    gradient: FloatArray = (numerator - 2 * mask * denominator) / denominator**2
    return gradient
