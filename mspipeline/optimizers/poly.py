"""`poly`: a power of the share that is left, from the rate to nearly 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mspipeline.optimizers.schedule import Schedule

POWER = 0.9


@dataclass(frozen=True)
class Poly(Schedule):
    """(1 - x)^0.9 of the share x of steps, as DeepLab and nnU-Net have it, the latter by epochs; no step has 0.

    >>> [round(Poly().factor(step / 4, 0), 3) for step in range(4)]
    [1.0, 0.772, 0.536, 0.287]
    """

    name: ClassVar[str] = "poly"

    def factor(self, share: float, epoch: int) -> float:
        return float((1 - share) ** POWER)
