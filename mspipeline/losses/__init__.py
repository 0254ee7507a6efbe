"""The losses, one file each: a value over `arrays`, which every engine evaluates and differentiates, and its gradient.

A new loss is its file and a line in registry.py.

Masks and probabilities are (N, *spatial, 1), or any equal shapes in `bce`, `dice` and `bce_dice`. Of several classes
they are (N, *spatial, classes) or (N, classes): masks one-hot, background first, probabilities a softmax's. `bce_dice`
and `ce_dice` take logits.
May import: NumPy; `arrays`, `errors`, `plugins`.
"""

from mspipeline.losses.binary_cross_entropy import bce, bce_gradient
from mspipeline.losses.binary_cross_entropy_and_dice import bce_dice, bce_dice_gradient
from mspipeline.losses.categorical_cross_entropy import categorical_ce, categorical_ce_gradient
from mspipeline.losses.cross_entropy_and_dice import ce_dice, ce_dice_gradient, deep_supervision_weights
from mspipeline.losses.loss import Loss
from mspipeline.losses.registry import LOSSES, make_loss
from mspipeline.losses.soft_dice import dice, dice_gradient, dice_of_sums
from mspipeline.losses.weighted_cross_entropy import weighted_ce, weighted_ce_gradient

__all__ = [
    "LOSSES",
    "Loss",
    "bce",
    "bce_dice",
    "bce_dice_gradient",
    "bce_gradient",
    "categorical_ce",
    "categorical_ce_gradient",
    "ce_dice",
    "ce_dice_gradient",
    "deep_supervision_weights",
    "dice",
    "dice_gradient",
    "dice_of_sums",
    "make_loss",
    "weighted_ce",
    "weighted_ce_gradient",
]
