"""A loss of another package: the mean of (mask - probability)^2, the Brier score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.losses.loss import BatchArrays, Loss
from mspipeline.losses.probability import FloatArray


@dataclass(frozen=True)
class Brier(Loss):
    """Mean over the voxels of the squared difference (Brier 1950)."""

    name: ClassVar[str] = "brier"

    @classmethod
    def offered(cls, classes: int) -> bool:
        return classes == 1

    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        return batch.mean((outputs[0] - mask) * (outputs[0] - mask))

    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        gradient: FloatArray = 2 * (outputs[0] - mask) / mask.size
        return [gradient]
