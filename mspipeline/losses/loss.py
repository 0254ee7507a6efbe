"""Loss: what every loss is: frozen settings, its value over `arrays`, which engines differentiate, and its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from mspipeline.arrays import NUMPY, Arrays
from mspipeline.errors import ConfigError
from mspipeline.losses.probability import FloatArray


class BatchArrays(Protocol):
    """Sums and means over the images of a batch: the joint one, where processes share it."""

    def sum(self, values: Any, axes: tuple[int, ...] | None = None, /) -> Any:
        """Over `axes`, the images' among them, or over all."""

    def mean(self, values: Any, /) -> Any:
        """Over all axes."""


class Loss(ABC):
    """What training lowers: a frozen dataclass of what can be set of it.

    Masks are of the first output's shape. of_sigmoid_logits: it takes what a network's last sigmoid is given, in place
    of the network's output. sums_dice: a term of it is `dice` over the batch, the rest being means over the batch.
    """

    name: ClassVar[str]
    of_sigmoid_logits: ClassVar[bool] = False
    sums_dice: ClassVar[bool] = False

    @classmethod
    def offered(cls, classes: int) -> bool:
        """Whether a training can choose it by its name alone for so many outputs a voxel or patch."""
        return False

    def check(self, outputs: Sequence[tuple[int, ...]]) -> None:
        """Raise ConfigError where it does not fit outputs of these shapes (no batch axis), the first first."""
        if len(outputs) != 1:
            raise ConfigError(
                f"loss {self.name} takes one output, the network has {len(outputs)}; ce_dice takes several"
            )

    @abstractmethod
    def value(self, arrays: Arrays, batch: BatchArrays, mask: Any, outputs: Sequence[Any]) -> Any:
        """A scalar. outputs: such as `check` lets pass; logits where it takes them. Sums and means over images go
        through `batch`, so that the last, smaller batch counts by itself."""

    @abstractmethod
    def gradients(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> list[FloatArray]:
        """d value / d output, one array an output, in NumPy."""

    def of_arrays(self, mask: FloatArray, outputs: Sequence[FloatArray]) -> float:
        """The value of NumPy's arrays."""
        return float(self.value(NUMPY, NUMPY_BATCH, mask, outputs))


class _NumPyBatch:
    """NumPy's sums and means; those over all are Python floats."""

    def sum(self, values: Any, axes: tuple[int, ...] | None = None, /) -> Any:
        return NUMPY.sum(values, axes)

    def mean(self, values: Any, /) -> Any:
        return float(np.mean(values))


NUMPY_BATCH = _NumPyBatch()
