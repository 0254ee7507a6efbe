"""`bce_dice`: binary cross-entropy plus soft Dice over the batch, of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.errors import ConfigError
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray
from mspipeline.losses.soft_dice import SoftDice, dice_gradient


@dataclass(frozen=True)
class BinaryCrossEntropyAndDice(Loss):
    """Binary cross-entropy, the mean over all voxels of the batch, plus `dice` over all voxels of the batch.

    Cross-entropy is log(1 + exp(z)) - t z of a logit z, which no z makes infinite, and whose gradient vanishes for no
    mistake. Dice alone has hardly a gradient once nothing is found, cross-entropy alone hardly one for small lesions.
    """

    name: ClassVar[str] = "bce_dice"
    of_sigmoid_logits: ClassVar[bool] = True
    sums_dice: ClassVar[bool] = True

    @classmethod
    def offered(cls, classes: int) -> bool:
        return classes == 1

    def check(self, outputs: Sequence[tuple[int, ...]]) -> None:
        super().check(outputs)
        if (channels := outputs[0][-1]) != 1:
            raise ConfigError(f"loss bce_dice needs one probability a voxel, the output has {channels} channels")

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        logits = outputs[0]
        cross_entropy = batch.mean(arrays.softplus(logits) - mask * logits)
        return cross_entropy + SoftDice().value(arrays, batch, mask, [arrays.sigmoid(logits)])

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return [bce_dice_gradient(mask, outputs[0])]


def bce_dice(mask: FloatArray, logits: FloatArray) -> float:
    """The value in NumPy.

    >>> import numpy as np
    >>> round(bce_dice(np.array([1.0, 0.0]), np.array([0.0, 0.0])), 4)  # log 2 + 1 - 2 / 3
    1.0265
    """
    return BinaryCrossEntropyAndDice().of_arrays(mask, [logits])


def bce_dice_gradient(mask: FloatArray, logits: FloatArray) -> FloatArray:
    """d bce_dice / d logits."""
    p = NUMPY.sigmoid(logits)
    gradient: FloatArray = (p - mask) / mask.size + p * (1 - p) * dice_gradient(mask, p)
    return gradient
