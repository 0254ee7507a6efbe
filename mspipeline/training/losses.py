"""The losses, once, in NumPy: what every backend's own is tested against, with their gradients.

Masks and probabilities are (N, *spatial, 1) or any equal shapes in `bce` and `dice`. Of several classes they are
(N, *spatial, classes) or (N, classes): masks one-hot, background first, probabilities a softmax's; `ce_dice` takes
logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mspipeline.errors import ShapeError

FloatArray = npt.NDArray[np.floating]

PROBABILITY_FLOOR = 1e-7
DICE_SMOOTH = 1.0
CE_DICE_SMOOTH = 1e-5


def _clipped(probability: FloatArray) -> FloatArray:
    return np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


def _unclipped(probability: FloatArray) -> npt.NDArray[np.bool_]:
    """Where clipping changes nothing; elsewhere the gradient is zero."""
    return (probability >= PROBABILITY_FLOOR) & (probability <= 1 - PROBABILITY_FLOOR)


def bce(mask: FloatArray, probability: FloatArray) -> float:
    """Binary cross-entropy, the mean over all voxels of the batch: -t log p - (1 - t) log(1 - p).

    p is clipped to [1e-7, 1 - 1e-7] first. (The 2021 report's PyEDDL sums over voxels instead.)

    >>> round(bce(np.array([1.0, 0.0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    p = _clipped(probability)
    return float(-np.mean(mask * np.log(p) + (1 - mask) * np.log(1 - p)))


def bce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d bce / d probability; zero where the probability is clipped."""
    p = _clipped(probability)
    gradient: FloatArray = _unclipped(probability) * (p - mask) / (p * (1 - p)) / mask.size
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


def weighted_ce(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> float:
    """Cross-entropy with a weight per class w_c, the mean over all voxels of the batch: -sum over c of w_c t_c log p_c.

    Ronneberger et al. 2015, equation 1, with a weight map that is constant in each class. It is divided by the number
    of voxels, not by the sum of their weights: weights of 1 give the unweighted loss, and a batch without lesions has a
    small loss, not a normalised one. p is clipped to [1e-7, 1 - 1e-7] first.

    class_weights: background first, one per class; two of them, (background, lesion), beside one sigmoid probability
    (..., 1), whose background has 1 - p. Raises ShapeError where their number is another.

    >>> round(weighted_ce(np.array([[1.0], [0.0]]), np.array([[0.5], [0.25]]), (0.05, 0.95)), 4)
    0.3364
    """
    weights, p = _class_weights(probability, class_weights), _clipped(probability)
    if p.shape[-1] == 1:
        return float(-np.mean(weights[1] * mask * np.log(p) + weights[0] * (1 - mask) * np.log(1 - p)))
    return float(-np.mean(np.sum(weights * mask * np.log(p), axis=-1)))


def weighted_ce_gradient(mask: FloatArray, probability: FloatArray, class_weights: Sequence[float]) -> FloatArray:
    """d weighted_ce / d probability; zero where the probability is clipped."""
    weights, p = _class_weights(probability, class_weights), _clipped(probability)
    slope = weights[0] * (1 - mask) / (1 - p) - weights[1] * mask / p if p.shape[-1] == 1 else -weights * mask / p
    gradient: FloatArray = _unclipped(probability) * slope / _voxels(mask)
    return gradient


def categorical_ce(mask: FloatArray, probability: FloatArray) -> float:
    """Cross-entropy of a softmax's probabilities: -log p of the truth, the mean over voxels, or patches, of a batch.

    p is clipped to [1e-7, 1 - 1e-7] first, and not divided by its sum.

    >>> round(categorical_ce(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.75, 0.25]])), 4)
    0.4904
    """
    return float(-np.mean(np.sum(mask * np.log(_clipped(probability)), axis=-1)))


def categorical_ce_gradient(mask: FloatArray, probability: FloatArray) -> FloatArray:
    """d categorical_ce / d probability; zero where the probability is clipped."""
    gradient: FloatArray = _unclipped(probability) * -mask / _clipped(probability) / _voxels(mask)
    return gradient


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
    """nnU-Net's loss (Isensee et al. 2021): the weighted sum over its heads of cross-entropy minus soft Dice.

    Cross-entropy is the mean over voxels of -log softmax of the truth. Soft Dice is (2 sum(t p) + 1e-5) / (sum(t) +
    sum(p) + 1e-5) with p the softmax, the mean over all classes but the background and over the images; with batch_dice
    its sums run over the images, too. The best value is thus -1 times the sum of the level weights.

    mask: (N, *spatial, classes) one-hot, of the first head's size. logits: one such array per head, each a whole number
    of times as coarse as the first along each axis, where the mask counts at every n-th voxel, the first included.
    level_weights: as many. Raises ShapeError where these do not fit.

    >>> round(ce_dice(np.array([[[0.0, 1.0], [1.0, 0.0]]]), [np.zeros((1, 2, 2))]), 4)  # log 2 - 1 / 2
    0.1931
    """
    return sum(
        weight * _ce_dice_level(level, head, batch_dice=batch_dice)
        for weight, level, head in _levels(mask, logits, level_weights)
    )


def ce_dice_gradient(
    mask: FloatArray, logits: Sequence[FloatArray], level_weights: Sequence[float] = (1.0,), *, batch_dice: bool = False
) -> list[FloatArray]:
    """d ce_dice / d logits, one array per head."""
    return [
        weight * _ce_dice_level_gradient(level, head, batch_dice=batch_dice)
        for weight, level, head in _levels(mask, logits, level_weights)
    ]


def _ce_dice_level(mask: FloatArray, logits: FloatArray, *, batch_dice: bool) -> float:
    logarithm = _log_softmax(logits)
    numerator, denominator = _dice_parts(mask, np.exp(logarithm), batch_dice=batch_dice)
    return float(-np.mean(np.sum(mask * logarithm, axis=-1)) - np.mean(numerator / denominator))


def _ce_dice_level_gradient(mask: FloatArray, logits: FloatArray, *, batch_dice: bool) -> FloatArray:
    p = np.exp(_log_softmax(logits))
    numerator, denominator = _dice_parts(mask, p, batch_dice=batch_dice)
    slope = np.zeros_like(p)  # of minus Dice by p; the background has none
    slope[..., 1:] = (numerator / denominator - 2 * mask[..., 1:]) / denominator / numerator.size
    through_softmax = p * (slope - np.sum(slope * p, axis=-1, keepdims=True))
    cross_entropy = (p * np.sum(mask, axis=-1, keepdims=True) - mask) / _voxels(mask)
    gradient: FloatArray = cross_entropy + through_softmax
    return gradient


def _dice_parts(mask: FloatArray, p: FloatArray, *, batch_dice: bool) -> tuple[FloatArray, FloatArray]:
    """Numerator and denominator of soft Dice, (N or 1, 1..., classes - 1)."""
    axes = tuple(range(0 if batch_dice else 1, mask.ndim - 1))
    truth, found = mask[..., 1:], p[..., 1:]
    overlap = np.sum(truth * found, axis=axes, keepdims=True)
    sizes = np.sum(truth, axis=axes, keepdims=True) + np.sum(found, axis=axes, keepdims=True)
    return 2 * overlap + CE_DICE_SMOOTH, sizes + CE_DICE_SMOOTH


def _log_softmax(logits: FloatArray) -> FloatArray:
    below = logits - np.max(logits, axis=-1, keepdims=True)
    logarithm: FloatArray = below - np.log(np.sum(np.exp(below), axis=-1, keepdims=True))
    return logarithm


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


def _class_weights(probability: FloatArray, class_weights: Sequence[float]) -> FloatArray:
    classes = max(2, probability.shape[-1])
    if len(class_weights) != classes:
        raise ShapeError(f"weighted_ce: {len(class_weights)} class weights for {classes} classes; give one per class")
    weights: FloatArray = np.asarray(class_weights, probability.dtype)
    return weights


def _voxels(mask: FloatArray) -> int:
    """Of the batch, or its patches: what a mean over voxels divides by."""
    return int(mask.size // mask.shape[-1])
