"""A schedule of another package: the rate of every second epoch is halved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mspipeline.optimizers.schedule import Schedule


@dataclass(frozen=True)
class EverySecond(Schedule):
    """1 in epochs 0, 2, ... and 1/2 in the others."""

    name: ClassVar[str] = "every_second"

    def factor(self, share: float, epoch: int) -> float:
        return 0.5 if epoch % 2 else 1.0
