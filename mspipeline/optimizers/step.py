"""`step`: the rate times a factor, again and again after so many epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mspipeline.optimizers.schedule import Schedule


@dataclass(frozen=True)
class Step(Schedule):
    """step_factor once for every `step_epochs` epochs that are over, those of the warm-up counted.

    >>> [round(Step(0.5, 2).factor(0.0, epoch), 3) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    step_factor: float = 0.1
    step_epochs: int = 30

    name: ClassVar[str] = "step"

    def factor(self, share: float, epoch: int) -> float:
        return float(self.step_factor ** (epoch // self.step_epochs))
