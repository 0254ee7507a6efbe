"""Loss: which one a training lowers, whether it fits a network's outputs, and its value and gradient by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mspipeline.errors import ConfigError
from mspipeline.losses.binary_cross_entropy import bce, bce_gradient
from mspipeline.losses.binary_cross_entropy_and_dice import bce_dice, bce_dice_gradient
from mspipeline.losses.categorical_cross_entropy import categorical_ce, categorical_ce_gradient
from mspipeline.losses.cross_entropy_and_dice import ce_dice, ce_dice_gradient
from mspipeline.losses.probability import FloatArray
from mspipeline.losses.soft_dice import dice, dice_gradient
from mspipeline.losses.weighted_cross_entropy import weighted_ce, weighted_ce_gradient

LossName = Literal["bce", "dice", "bce_dice", "weighted_ce", "categorical_ce", "ce_dice"]


@dataclass(frozen=True)
class Loss:
    """What training lowers.

    class_weights: of "weighted_ce", one per class, background first.
    level_weights: of "ce_dice", one per output of the graph, in their order (deep supervision).
    batch_dice: of "ce_dice", Dice's sums run over the images of a batch, too, where nnU-Net's plan says so.
    """

    name: LossName
    class_weights: tuple[float, ...] = ()
    level_weights: tuple[float, ...] = (1.0,)
    batch_dice: bool = False

    @property
    def of_sigmoid_logits(self) -> bool:
        """Whether it takes what a network's last sigmoid is given, in place of the network's output."""
        return self.name == "bce_dice"

    @property
    def sums_dice(self) -> bool:
        """Whether a term of it is `dice` over the batch, the rest being means over the batch."""
        return self.name in ("dice", "bce_dice")


def loss_and_gradients(loss: Loss, mask: FloatArray, outputs: Sequence[FloatArray]) -> tuple[float, list[FloatArray]]:
    """The value, and its gradient by each output.

    outputs: such as `check_loss` lets pass; logits where the loss takes them.
    """
    value, gradients = _BY_NAME[loss.name]
    return value(loss, mask, outputs), gradients(loss, mask, outputs)


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
            steps_between(outputs[0], output)
        return
    if len(outputs) != 1:
        raise ConfigError(f"loss {name} takes one output, the network has {len(outputs)}; ce_dice takes several")
    if name == "categorical_ce" and channels < 2:
        raise ConfigError("loss categorical_ce needs 2 classes or more, the output has 1 channel; use bce_dice or bce")
    if name == "bce_dice" and channels != 1:
        raise ConfigError(f"loss bce_dice needs one probability a voxel, the output has {channels} channels")
    classes = max(2, channels)
    if name == "weighted_ce" and len(loss.class_weights) != classes:
        raise ConfigError(
            f"loss weighted_ce has {len(loss.class_weights)} class weights, the output {classes} classes; "
            "give one weight a class, background first"
        )


def steps_between(first: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...]:
    """How many of the first output's voxels one of this output stands for, along each axis. Raises ConfigError."""
    if len(first) != len(output) or first[-1] != output[-1] or any(n % m for n, m in zip(first, output, strict=True)):
        raise ConfigError(
            f"loss ce_dice needs outputs of one size or whole fractions of it, received {first}, {output}"
        )
    return tuple(n // m for n, m in zip(first[:-1], output[:-1], strict=True))


Value = Callable[[Loss, FloatArray, Sequence[FloatArray]], float]
Gradients = Callable[[Loss, FloatArray, Sequence[FloatArray]], list[FloatArray]]
_BY_NAME: dict[str, tuple[Value, Gradients]] = {
    "bce": (lambda loss, mask, given: bce(mask, given[0]), lambda loss, mask, given: [bce_gradient(mask, given[0])]),
    "dice": (lambda loss, mask, given: dice(mask, given[0]), lambda loss, mask, given: [dice_gradient(mask, given[0])]),
    "bce_dice": (
        lambda loss, mask, given: bce_dice(mask, given[0]),
        lambda loss, mask, given: [bce_dice_gradient(mask, given[0])],
    ),
    "weighted_ce": (
        lambda loss, mask, given: weighted_ce(mask, given[0], loss.class_weights),
        lambda loss, mask, given: [weighted_ce_gradient(mask, given[0], loss.class_weights)],
    ),
    "categorical_ce": (
        lambda loss, mask, given: categorical_ce(mask, given[0]),
        lambda loss, mask, given: [categorical_ce_gradient(mask, given[0])],
    ),
    "ce_dice": (
        lambda loss, mask, given: ce_dice(mask, given, loss.level_weights, batch_dice=loss.batch_dice),
        lambda loss, mask, given: ce_dice_gradient(mask, given, loss.level_weights, batch_dice=loss.batch_dice),
    ),
}
