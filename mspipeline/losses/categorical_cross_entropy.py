"""`categorical_ce`: cross-entropy of a softmax's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.errors import ConfigError
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray, clipped, unclipped, voxels_of


@dataclass(frozen=True)
class CategoricalCrossEntropy(Loss):
    """-log p of the truth, the mean over the voxels, or patches, of a batch.

    p is clipped to [1e-7, 1 - 1e-7] first, and not divided by its sum.
    """

    name: ClassVar[str] = "categorical_ce"

    @classmethod
    def offered(cls, classes: int) -> bool:
        return classes > 1

    def check(self, outputs: Sequence[tuple[int, ...]]) -> None:
        super().check(outputs)
        if outputs[0][-1] < 2:
            raise ConfigError(
                "loss categorical_ce needs 2 classes or more, the output has 1 channel; use bce_dice or bce"
            )

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        return -batch.mean(arrays.sum(mask * arrays.log(clipped(arrays, outputs[0])), -1))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return [categorical_ce_gradient(mask, outputs[0])]


def categorical_ce(mask: FloatArray, probability: FloatArray) -> float:
    """The value in NumPy.

    >>> import numpy as np
    >>> round(categorical_ce(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.75, 0.25]])), 4)
    0.4904
    """
    return CategoricalCrossEntropy().of_arrays(mask, [probability])


def categorical_ce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d categorical_ce / d probability; zero where the probability is clipped."""
    gradient: FloatArray = unclipped(probability) * -mask / clipped(NUMPY, probability) / voxels_of(mask)
    return gradient
