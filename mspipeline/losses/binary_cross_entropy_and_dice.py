"""`bce_dice`: binary cross-entropy plus soft Dice over the batch, of logits."""

from __future__ import annotations

import numpy as np

from mspipeline.losses.probability import FloatArray
from mspipeline.losses.soft_dice import dice, dice_gradient


def bce_dice(mask: FloatArray, logits: FloatArray) -> float:
    """Binary cross-entropy, the mean over all voxels of the batch, plus `dice` over all voxels of the batch.

    Cross-entropy is log(1 + exp(z)) - t z of a logit z, which no z makes infinite, and whose gradient vanishes for no
    mistake. Dice alone has hardly a gradient once nothing is found, cross-entropy alone hardly one for small lesions.

    >>> round(bce_dice(np.array([1.0, 0.0]), np.array([0.0, 0.0])), 4)  # log 2 + 1 - 2 / 3
    1.0265
    """
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return float(np.mean(softplus - mask * logits)) + dice(mask, _sigmoid(logits))


def bce_dice_gradient(mask: FloatArray, logits: FloatArray) -> FloatArray:
    """d bce_dice / d logits."""
    p = _sigmoid(logits)
    gradient: FloatArray = (p - mask) / mask.size + p * (1 - p) * dice_gradient(mask, p)
    return gradient


def _sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)), by the power that cannot overflow."""
    power = np.exp(-np.abs(logits))
    probability: FloatArray = np.where(logits >= 0, 1.0, power) / (1 + power)
    return probability
