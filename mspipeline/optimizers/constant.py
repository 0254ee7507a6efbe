"""`constant`: the rate as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mspipeline.optimizers.schedule import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    """A factor of 1."""

    name: ClassVar[str] = "constant"

    def factor(self, share: float, epoch: int) -> float:
        return 1.0
