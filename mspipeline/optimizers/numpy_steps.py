"""NumPySteps: an optimizer's updates on NumPy's own arrays, for a backend that leaves them to the suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.arrays import NUMPY
from mspipeline.errors import ShapeError
from mspipeline.optimizers.clipping import clipped_to_norm
from mspipeline.optimizers.optimizer import Optimizer

FloatArray = npt.NDArray[np.float32]
State = dict[str, npt.NDArray[np.generic]]


class NumPySteps:
    """The rule in place on float32 arrays that stay where they are; scalars are float64.

    shapes: of the arrays by name; `step` and `state` go by the same names.
    """

    def __init__(self, optimizer: Optimizer, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._optimizer = optimizer
        self._steps = 0
        self._slots = {
            name: tuple(np.zeros(shape, np.float32) for _ in optimizer.slots) for name, shape in shapes.items()
        }

    def step(
        self, gradients: Mapping[str, FloatArray], weights: Mapping[str, FloatArray], rate: float | None = None
    ) -> None:
        """One update of every weight. rate: the optimizer's where None."""
        optimizer = self._optimizer
        rate = optimizer.learning_rate if rate is None else rate
        self._steps += 1
        clipped = clipped_to_norm(NUMPY, list(gradients.values()), optimizer.clip_norm)
        for name, gradient in zip(gradients, clipped, strict=True):
            held = (weights[name], *self._slots[name])
            weight, slots = optimizer.update(NUMPY, held[0], gradient, held[1:], self._steps, rate)
            for array, values in zip(held, (weight, *slots), strict=True):
                array[...] = values

    def state(self) -> State:
        """A copy of the number of steps and the slots: `optimizer/steps`, `optimizer/<slot>/<name>`."""
        kept: State = {"optimizer/steps": np.array(self._steps, np.int64)}
        return kept | {name: values.copy() for name, values in self._named().items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from `state`. Raises ShapeError where it is of other arrays."""
        own = self.state()
        differing = sorted(own.keys() ^ state.keys())
        differing += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if differing:
            raise ShapeError(
                f"optimizer state of another network: {len(differing)} entries differ ({differing[0]}, ...); "
                "resume the run that wrote it"
            )
        self._steps = int(state["optimizer/steps"])
        for name, values in self._named().items():
            values[...] = state[name]

    def _named(self) -> dict[str, FloatArray]:
        return {
            f"optimizer/{slot}/{name}": values
            for name, slots in self._slots.items()
            for slot, values in zip(self._optimizer.slots, slots, strict=True)
        }
