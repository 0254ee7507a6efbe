"""`weighted_ce`: cross-entropy with a weight per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.errors import ConfigError, ShapeError
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray, clipped, unclipped, voxels_of


@dataclass(frozen=True)
class WeightedCrossEntropy(Loss):
    """Cross-entropy with a weight per class w_c, the mean over all voxels of the batch: -sum over c of w_c t_c log p_c.

    Ronneberger et al. 2015, equation 1, with a weight map that is constant in each class. It is divided by the number
    of voxels, not by the sum of their weights: weights of 1 give the unweighted loss, and a batch without lesions has a
    small loss, not a normalised one. p is clipped to [1e-7, 1 - 1e-7] first.

    class_weights: background first, one per class; two of them, (background, lesion), beside one sigmoid probability
    (..., 1), whose background has 1 - p.
    """

    class_weights: tuple[float, ...] = ()

    name: ClassVar[str] = "weighted_ce"

    def check(self, outputs: Sequence[tuple[int, ...]]) -> None:
        super().check(outputs)
        classes = max(2, outputs[0][-1])
        if len(self.class_weights) != classes:
            raise ConfigError(
                f"loss weighted_ce has {len(self.class_weights)} class weights, the output {classes} classes; "
                "give one weight a class, background first"
            )

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        p = clipped(arrays, outputs[0])
        if p.shape[-1] == 1:
            background, lesion = self.class_weights
            return -batch.mean(lesion * mask * arrays.log(p) + background * (1 - mask) * arrays.log(1 - p))
        weighted = [weight * mask[..., c] * arrays.log(p[..., c]) for c, weight in enumerate(self.class_weights)]
        return -batch.mean(sum(weighted))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return [weighted_ce_gradient(mask, outputs[0], self.class_weights)]


def weighted_ce(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> float:
    """The value in NumPy. Raises ShapeError where the number of weights is not that of the classes.

    >>> round(weighted_ce(np.array([[1.0], [0.0]]), np.array([[0.5], [0.25]]), (0.05, 0.95)), 4)
    0.3364
    """
    _check_weights(probability, class_weights)
    return WeightedCrossEntropy(tuple(class_weights)).of_arrays(mask, [probability])


def weighted_ce_gradient(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> FloatArray:
    """d weighted_ce / d probability; zero where the probability is clipped."""
    _check_weights(probability, class_weights)
    weights, p = np.asarray(class_weights, probability.dtype), clipped(NUMPY, probability)
    slope = weights[0] * (1 - mask) / (1 - p) - weights[1] * mask / p if p.shape[-1] == 1 else -weights * mask / p
    gradient: FloatArray = unclipped(probability) * slope / voxels_of(mask)
    return gradient


def _check_weights(probability: FloatArray, class_weights: Sequence[float]) -> None:
    classes = max(2, probability.shape[-1])
    if len(class_weights) != classes:
        raise ShapeError(f"weighted_ce: {len(class_weights)} class weights for {classes} classes; give one per class")
