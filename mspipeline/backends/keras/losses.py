"""The losses of `mspipeline.losses` in `keras.ops`, for any engine below it; nothing here imports Keras.

Each is the mean or ratio that its NumPy form states, over the whole batch, so that the last, smaller batch counts by
itself. Where processes share a batch it is the joint one: sums and means over images go through `joint`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mspipeline.backends.keras.joint import OwnBatch
from mspipeline.losses import Loss, check_loss
from mspipeline.losses.cross_entropy_and_dice import CE_DICE_SMOOTH
from mspipeline.losses.loss import steps_between
from mspipeline.losses.probability import PROBABILITY_FLOOR
from mspipeline.losses.soft_dice import DICE_SMOOTH

LossFunction = Callable[[Any, list[Any]], Any]


def loss_function(keras: Any, loss: Loss, batch: OwnBatch) -> LossFunction:
    """(masks, values of `base.loss_nodes`) -> scalar. Masks are of the first output's shape.

    batch: what it is the loss of. The function raises ConfigError where the outputs are not such as `check_loss` wants
    them. Call that first where the graph is known: TensorFlow, while it traces, makes many lines of the one.
    """

    def value(masks: Any, outputs: list[Any]) -> Any:
        check_loss(loss, [tuple(output.shape)[1:] for output in outputs])
        return _LOSSES[loss.name](keras, loss, batch, masks, outputs)

    return value


def _clipped(keras: Any, probability: Any) -> Any:
    return keras.ops.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


def _bce(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    p = _clipped(keras, outputs[0])
    return -batch.mean(mask * keras.ops.log(p) + (1 - mask) * keras.ops.log(1 - p))


def _dice(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    probability = outputs[0]
    overlap = batch.sum(mask * probability)
    return 1 - (2 * overlap + DICE_SMOOTH) / (batch.sum(mask) + batch.sum(probability) + DICE_SMOOTH)


def _bce_dice(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    logits = outputs[0]
    cross_entropy = batch.mean(keras.ops.softplus(logits) - mask * logits)
    return cross_entropy + _dice(keras, loss, batch, mask, [keras.ops.sigmoid(logits)])


def _weighted_ce(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    p = _clipped(keras, outputs[0])
    if p.shape[-1] == 1:
        background, lesion = loss.class_weights
        return -batch.mean(lesion * mask * keras.ops.log(p) + background * (1 - mask) * keras.ops.log(1 - p))
    weighted = [weight * mask[..., c] * keras.ops.log(p[..., c]) for c, weight in enumerate(loss.class_weights)]
    return -batch.mean(sum(weighted))


def _categorical_ce(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    return -batch.mean(keras.ops.sum(mask * keras.ops.log(_clipped(keras, outputs[0])), axis=-1))


def _ce_dice(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    total = 0.0
    first = tuple(outputs[0].shape)[1:]
    for weight, logits in zip(loss.level_weights, outputs, strict=True):
        steps = steps_between(first, tuple(logits.shape)[1:])
        level = mask[(slice(None), *(slice(None, None, step) for step in steps))]
        # A head of weight 0 stays in the sum: left out, its kernel would have no gradient instead of one of 0.
        total = total + weight * _ce_dice_level(keras, batch, level, logits, batch_dice=loss.batch_dice)
    return total


def _ce_dice_level(keras: Any, batch: OwnBatch, mask: Any, logits: Any, *, batch_dice: bool) -> Any:
    """Of one head. batch_dice: sums of Dice run over the images, too, as if they were one."""
    ops = keras.ops
    logarithm = ops.log_softmax(logits, axis=-1)
    cross_entropy = -batch.mean(ops.sum(mask * logarithm, axis=-1))
    truth, probability = mask[..., 1:], ops.exp(logarithm)[..., 1:]
    axes = tuple(range(0 if batch_dice else 1, len(logits.shape) - 1))
    summed, averaged = (batch.sum, ops.mean) if batch_dice else (ops.sum, batch.mean)
    overlap, sizes = summed(truth * probability, axes), summed(truth, axes) + summed(probability, axes)
    return cross_entropy - averaged((2 * overlap + CE_DICE_SMOOTH) / (sizes + CE_DICE_SMOOTH))


_LOSSES: dict[str, Callable[[Any, Loss, OwnBatch, Any, list[Any]], Any]] = {
    "bce": _bce,
    "dice": _dice,
    "bce_dice": _bce_dice,
    "weighted_ce": _weighted_ce,
    "categorical_ce": _categorical_ce,
    "ce_dice": _ce_dice,
}
