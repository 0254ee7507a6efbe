"""What a training is given: batches, somebody who watches, somebody who may stop it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import FloatArray
from mspipeline.errors import SuiteError

Stop = Callable[[], SuiteError | None]
"""Asked between steps: the error to end with once the state is saved, or None to go on."""


class Batch(Protocol):
    """images: (N, *spatial, C) float32. masks: (N, *spatial, 1), or (N, 1) of patches, 0.0 or 1.0. cases: (N,)."""

    @property
    def images(self) -> FloatArray: ...
    @property
    def masks(self) -> FloatArray: ...
    @property
    def cases(self) -> npt.NDArray[np.int32]: ...


class BatchReader(Protocol):
    """Batches of a subset, epoch by epoch: of whatever a recipe cuts from its shards."""

    @property
    def case_ids(self) -> Sequence[str]: ...
    @property
    def steps(self) -> int: ...
    def epoch(self, number: int, *, first_step: int = 0) -> Generator[Batch, None, None]: ...


class Observer(Protocol):
    """What watches a training, e.g. a progress bar."""

    def epoch_begins(self, epoch: int, epochs: int, subset: str, steps: int, step: int) -> None:
        """`step` of `steps` are done already (a resumed epoch)."""

    def step_done(self, loss: float, dice: float, images_per_second: float) -> None:
        """Loss and Dice of the pass so far."""

    def epoch_ended(self, epoch: int, epochs: int, rows: list[dict[str, Any]]) -> None:
        """The epoch's rows: training, and validation where there is any."""
