"""Schedule: a step's learning rate, which follows from its number alone, so that a resumed training has the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class Schedule(ABC):
    """A frozen dataclass of settings, of the same names in a configuration, and what it makes of the rate."""

    name: ClassVar[str]

    @abstractmethod
    def factor(self, share: float, epoch: int) -> float:
        """What the rate is multiplied by. share: of the steps after the warm-up, in [0, 1]. epoch: counted from 0."""


def learning_rate(
    rate: float, step: int, steps: int, *, schedule: Schedule, warmup_steps: int = 0, epoch_steps: int = 1
) -> float:
    """The rate of a step, counted from 0, of a training of so many; an epoch has `epoch_steps`.

    In the warm-up it grows in equal parts to `rate`, whatever the schedule: the first steps of Adam are as long as the
    rate whatever the gradient, while its moments know a few batches only (Ma & Yarats 2021). After it the schedule
    has the share of the steps that are left.

    >>> from mspipeline.optimizers.constant import Constant
    >>> [learning_rate(0.5, step, 8, schedule=Constant(), warmup_steps=4) for step in range(6)]
    [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    """
    if step + 1 < warmup_steps:
        return rate * (step + 1) / warmup_steps
    begins = max(warmup_steps - 1, 0)
    share = min((step - begins) / max(steps - begins, 1), 1.0)
    return rate * schedule.factor(share, step // epoch_steps)
