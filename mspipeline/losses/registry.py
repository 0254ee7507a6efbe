"""The losses by name. Packages add to them by the entry point group `mspipeline.losses`: a subclass of `Loss`."""

from __future__ import annotations

from typing import Any

from mspipeline.losses.binary_cross_entropy import BinaryCrossEntropy
from mspipeline.losses.binary_cross_entropy_and_dice import BinaryCrossEntropyAndDice
from mspipeline.losses.categorical_cross_entropy import CategoricalCrossEntropy
from mspipeline.losses.cross_entropy_and_dice import CrossEntropyAndDice
from mspipeline.losses.loss import Loss
from mspipeline.losses.soft_dice import SoftDice
from mspipeline.losses.weighted_cross_entropy import WeightedCrossEntropy
from mspipeline.plugins import Registry, subclass_of

_BUILT_IN: dict[str, type[Loss]] = {
    each.name: each
    for each in (
        BinaryCrossEntropyAndDice,
        BinaryCrossEntropy,
        SoftDice,
        CategoricalCrossEntropy,
        WeightedCrossEntropy,
        CrossEntropyAndDice,
    )
}
LOSSES: Registry[type[Loss]] = Registry("loss", "mspipeline.losses", _BUILT_IN, subclass_of(Loss))
"""The losses by name. Of those that a network can be trained with, the first is what `auto` takes."""


def make_loss(name: str, **settings: Any) -> Loss:
    """A loss with these settings. Raises ConfigError for a name that is not in the table.

    >>> make_loss("weighted_ce", class_weights=(0.05, 0.95)).name
    'weighted_ce'
    """
    return LOSSES[name](**settings)
