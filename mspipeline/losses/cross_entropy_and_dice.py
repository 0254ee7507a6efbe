"""`ce_dice`: nnU-Net's cross-entropy and soft Dice of logits, with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.errors import ConfigError, ShapeError
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray, voxels_of

CE_DICE_SMOOTH = 1e-5


@dataclass(frozen=True)
class CrossEntropyAndDice(Loss):
    """nnU-Net's loss (Isensee et al. 2021): the weighted sum over its heads of cross-entropy minus soft Dice.

    Cross-entropy is the mean over voxels of -log softmax of the truth. Soft Dice is (2 sum(t p) + 1e-5) / (sum(t) +
    sum(p) + 1e-5) with p the softmax, the mean over all classes but the background and over the images. The best value
    is thus -1 times the sum of the level weights.

    level_weights: one per output of the graph, in their order (deep supervision); an output is a whole number of times
    as coarse as the first along each axis, and the mask counts at every n-th voxel, the first included. batch_dice:
    Dice's sums run over the images of a batch, too, where nnU-Net's plan says so.
    """

    level_weights: tuple[float, ...] = (1.0,)
    batch_dice: bool = False

    name: ClassVar[str] = "ce_dice"

    def check(self, outputs: Sequence[tuple[int, ...]]) -> None:
        if outputs[0][-1] < 2 or len(outputs[0]) < 2:
            raise ConfigError(f"loss ce_dice needs a map of logits of 2 classes or more, the output is {outputs[0]}")
        if len(self.level_weights) != len(outputs):
            raise ConfigError(
                f"loss ce_dice has {len(self.level_weights)} level weights, the network {len(outputs)} outputs; "
                "give one weight an output"
            )
        for output in outputs[1:]:
            _steps_between(outputs[0], output)

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        total = 0.0
        first = tuple(outputs[0].shape)[1:]
        for weight, logits in zip(self.level_weights, outputs, strict=True):
            steps = _steps_between(first, tuple(logits.shape)[1:])
            level = mask[(slice(None), *(slice(None, None, step) for step in steps))]
            # A head of weight 0 stays in the sum: left out, its kernel would have no gradient instead of one of 0.
            total = total + weight * self._level(arrays, batch, level, logits)
        return total

    def _level(self, arrays: Arrays, batch: BatchArrays, mask: Any, logits: Any) -> Any:
        """Of one head."""
        logarithm = arrays.log_softmax(logits)
        cross_entropy = -batch.mean(arrays.sum(mask * logarithm, -1))
        truth, probability = mask[..., 1:], arrays.exp(logarithm)[..., 1:]
        axes = tuple(range(0 if self.batch_dice else 1, len(logits.shape) - 1))
        summed, averaged = (batch.sum, arrays.mean) if self.batch_dice else (arrays.sum, batch.mean)
        overlap, sizes = summed(truth * probability, axes), summed(truth, axes) + summed(probability, axes)
        return cross_entropy - averaged((2 * overlap + CE_DICE_SMOOTH) / (sizes + CE_DICE_SMOOTH))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        return ce_dice_gradient(mask, outputs, self.level_weights, batch_dice=self.batch_dice)


def _steps_between(first: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the first output's voxels one of this output stands for, along each axis. Raises ConfigError."""
    if len(first) != len(output) or first[-1] != output[-1] or any(n % m for n, m in zip(first, output, strict=True)):
        raise ConfigError(
            f"loss ce_dice needs outputs of one size or whole fractions of it, received {first}, {output}"
        )
    return tuple(n // m for n, m in zip(first[:-1], output[:-1], strict=True))


def deep_supervision_weights(heads: int) -> tuple[float, ...]:
    """nnU-Net's weights of its heads, the finest first: 1, 1/2, 1/4, ... with 0 for the coarsest, divided by their sum.

    One head alone has weight 1.

    >>> [round(weight, 3) for weight in deep_supervision_weights(5)]
    [0.533, 0.267, 0.133, 0.067, 0.0]
    """
    halves = [0.5**level for level in range(max(1, heads - 1))]
    return tuple(weight / sum(halves) for weight in [*halves, 0.0][:heads])


def ce_dice(
    mask: FloatArray, logits: Sequence[FloatArray], level_weights: Sequence[float] = (1.0,), *, batch_dice: bool = False
) -> float:
    """The value in NumPy.

    mask: (N, *spatial, classes) one-hot, of the first head's size. logits: one such array per head. level_weights: as
    many. Raises ShapeError where these do not fit.

    >>> round(ce_dice(np.array([[[0.0, 1.0], [1.0, 0.0]]]), [np.zeros((1, 2, 2))]), 4)  # log 2 - 1 / 2
    0.1931
    """
    _levels(mask, logits, level_weights)
    return CrossEntropyAndDice(tuple(level_weights), batch_dice).of_arrays(mask, logits)


def ce_dice_gradient(
    mask: FloatArray, logits: Sequence[FloatArray], level_weights: Sequence[float] = (1.0,), *, batch_dice: bool = False
) -> list[FloatArray]:
    """d ce_dice / d logits, one array per head."""
    return [
        weight * _ce_dice_level_gradient(level, head, batch_dice=batch_dice)
        for weight, level, head in _levels(mask, logits, level_weights)
    ]


def _ce_dice_level_gradient(mask: FloatArray, logits: FloatArray, *, batch_dice: bool) -> FloatArray:
    p = np.exp(NUMPY.log_softmax(logits))
    numerator, denominator = _dice_parts(mask, p, batch_dice=batch_dice)
    slope = np.zeros_like(p)  # of minus Dice by p; the background has none
    slope[..., 1:] = (numerator / denominator - 2 * mask[..., 1:]) / denominator / numerator.size
    through_softmax = p * (slope - np.sum(slope * p, axis=-1, keepdims=True))
    cross_entropy = (p * np.sum(mask, axis=-1, keepdims=True) - mask) / voxels_of(mask)
    gradient: FloatArray = cross_entropy + through_softmax
    return gradient


def _dice_parts(mask: FloatArray, p: FloatArray, *, batch_dice: bool) -> tuple[FloatArray, FloatArray]:
    """Numerator and denominator of soft Dice, (N or 1, 1..., classes - 1)."""
    axes = tuple(range(0 if batch_dice else 1, mask.ndim - 1))
    truth, found = mask[..., 1:], p[..., 1:]
    overlap = np.sum(truth * found, axis=axes, keepdims=True)
    sizes = np.sum(truth, axis=axes, keepdims=True) + np.sum(found, axis=axes, keepdims=True)
    return 2 * overlap + CE_DICE_SMOOTH, sizes + CE_DICE_SMOOTH


def _levels(
    mask: FloatArray, logits: Sequence[FloatArray], level_weights: Sequence[float]
) -> list[tuple[float, FloatArray, FloatArray]]:
    """(weight, mask at the head's voxels, head) of every head."""
    if len(level_weights) != len(logits):
        raise ShapeError(f"ce_dice: {len(level_weights)} level weights for {len(logits)} heads; give one per head")
    return [(weight, _at_level(mask, head.shape), head) for weight, head in zip(level_weights, logits, strict=True)]


def _at_level(mask: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The mask at every n-th voxel along each axis, so that it has a head's shape."""
    ends_fit = len(mask.shape) == len(shape) and (mask.shape[0], mask.shape[-1]) == (shape[0], shape[-1])
    if not ends_fit or any(fine % coarse for fine, coarse in zip(mask.shape, shape, strict=True)):
        raise ShapeError(
            f"ce_dice: a head of {shape} is not a whole number of times as coarse as a mask of {mask.shape}"
        )
    level: FloatArray = mask[tuple(slice(None, None, n // m) for n, m in zip(mask.shape, shape, strict=True))]
    return level
