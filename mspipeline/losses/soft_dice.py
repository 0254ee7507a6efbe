"""`dice`: soft Dice over all voxels of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mspipeline.arrays import Arrays
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray

DICE_SMOOTH = 1.0


@dataclass(frozen=True)
class SoftDice(Loss):
    """Soft Dice loss over all voxels of the batch: 1 - (2 sum(t p) + 1) / (sum(t) + sum(p) + 1).

    After Milletari et al. 2016, without the squares. Of a batch without lesions the smallest value, 0, is that of an
    empty prediction: means over such batches favour a network that finds nothing. So scores of a whole pass are taken
    of the pass's sums, see `dice_of_sums`.
    """

    name: ClassVar[str] = "dice"
    sums_dice: ClassVar[bool] = True

    @classmethod
    def offered(cls, classes: int) -> bool:
        return classes == 1

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        probability = outputs[0]
        return dice_of_sums(batch.sum(mask * probability), batch.sum(mask), batch.sum(probability))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return [dice_gradient(mask, outputs[0])]


def dice(mask: FloatArray, probability: FloatArray) -> float:
    """The value in NumPy.

    >>> dice(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    0.33333333333333337
    """
    return SoftDice().of_arrays(mask, [probability])


def dice_of_sums(overlap: Any, truth: Any, found: Any) -> Any:
    """`dice` of sums over voxels, numbers or an engine's scalars: of t p, of t and of p.

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
