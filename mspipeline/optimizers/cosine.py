"""`cosine`: half a wave, from the rate to nearly 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from mspipeline.optimizers.schedule import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """(1 + cos(pi x)) / 2 of the share x of steps (Loshchilov & Hutter 2017, without restarts); no step has 0.

    >>> [round(Cosine().factor(step / 4, 0), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    name: ClassVar[str] = "cosine"

    def factor(self, share: float, epoch: int) -> float:
        return (1 + math.cos(math.pi * share)) / 2
