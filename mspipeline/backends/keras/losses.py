"""The losses of `training.losses` in `keras.ops`, for any engine below it; nothing here imports Keras.

Each is the mean or ratio that its NumPy form states, over the whole batch, so that the last, smaller batch counts by
itself. Where processes share a batch it is the joint one: sums and means over images go through `joint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mspipeline.backends.base import Loss
from mspipeline.backends.keras.joint import OwnBatch
from mspipeline.errors import ConfigError

PROBABILITY_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before a logarithm, as in `training.losses`."""
CE_DICE_SMOOTH = 1e-5

LossFunction = Callable[[Any, list[Any]], Any]


def loss_function(keras: Any, loss: Loss, batch: OwnBatch) -> LossFunction:
    """(masks, outputs of the graph) -> scalar. Masks are of the first output's shape. batch: what it is the loss of.

    The function raises ConfigError where the outputs are not such as `check_loss` wants them. Call that first where the
    graph is known: TensorFlow, while it traces, makes many lines of the one.
    """

    def value(masks: Any, outputs: list[Any]) -> Any:
        check_loss(loss, [tuple(output.shape)[1:] for output in outputs])
        return _LOSSES[loss.name](keras, loss, batch, masks, outputs)

    return value


def check_loss(loss: Loss, outputs: Sequence[tuple[int, ...]]) -> None:
    """Raise ConfigError where a loss does not fit outputs of these shapes (no batch axis), the first first."""
    name, channels = loss.name, outputs[0][-1]
    if name == "ce_dice":
        if channels < 2 or len(outputs[0]) < 2:
            raise ConfigError(f"loss ce_dice needs a map of logits of 2 classes or more, the output is {outputs[0]}")
        if len(loss.level_weights) != len(outputs):
            raise ConfigError(
                f"loss ce_dice has {len(loss.level_weights)} level weights, the network {len(outputs)} outputs; "
                "give one weight an output"
            )
        for output in outputs[1:]:
            _steps(outputs[0], output)
        return
    if len(outputs) != 1:
        raise ConfigError(f"loss {name} takes one output, the network has {len(outputs)}; ce_dice takes several")
    if name == "categorical_ce" and channels < 2:
        raise ConfigError("loss categorical_ce needs 2 classes or more, the output has 1 channel; use bce")
    classes = max(2, channels)
    if name == "weighted_ce" and len(loss.class_weights) != classes:
        raise ConfigError(
            f"loss weighted_ce has {len(loss.class_weights)} class weights, the output {classes} classes; "
            "give one weight a class, background first"
        )


def _steps(first: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the first output's voxels one of this output stands for, along each axis."""
    if len(first) != len(output) or first[-1] != output[-1] or any(n % m for n, m in zip(first, output, strict=True)):
        raise ConfigError(
            f"loss ce_dice needs outputs of one size or whole fractions of it, received {first}, {output}"
        )
    return tuple(n // m for n, m in zip(first[:-1], output[:-1], strict=True))


def _clipped(keras: Any, probability: Any) -> Any:
    return keras.ops.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)


def _bce(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    p = _clipped(keras, outputs[0])
    return -batch.mean(mask * keras.ops.log(p) + (1 - mask) * keras.ops.log(1 - p))


def _dice(keras: Any, loss: Loss, batch: OwnBatch, mask: Any, outputs: list[Any]) -> Any:
    probability = outputs[0]
    overlap = batch.sum(mask * probability)
    return 1 - (2 * overlap + 1) / (batch.sum(mask) + batch.sum(probability) + 1)


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
        steps = _steps(first, tuple(logits.shape)[1:])
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
    "weighted_ce": _weighted_ce,
    "categorical_ce": _categorical_ce,
    "ce_dice": _ce_dice,
}
