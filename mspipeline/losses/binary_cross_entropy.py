"""`bce`: binary cross-entropy of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray, clipped, unclipped


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """The mean over all voxels of the batch of -t log p - (1 - t) log(1 - p).

    p is clipped to [1e-7, 1 - 1e-7] first. (The 2021 report's PyEDDL sums over voxels instead.)
    """

    name: ClassVar[str] = "bce"

    @classmethod
    def offered(cls, classes: int) -> bool:
        return classes == 1

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        p = clipped(arrays, outputs[0])
        return -batch.mean(mask * arrays.log(p) + (1 - mask) * arrays.log(1 - p))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return [bce_gradient(mask, outputs[0])]


def bce(mask: FloatArray, probability: FloatArray) -> float:
    """The value in NumPy.

    >>> import numpy as np
    >>> round(bce(np.array([1.0, 0.0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    return BinaryCrossEntropy().of_arrays(mask, [probability])


def bce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d bce / d probability; zero where the probability is clipped."""
    p = clipped(NUMPY, probability)
    gradient: FloatArray = unclipped(probability) * (p - mask) / (p * (1 - p)) / mask.size
    return gradient
