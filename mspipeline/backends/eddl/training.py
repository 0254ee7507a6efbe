"""What EDDL is not left to do in training: Adam, in NumPy beside it.

Its own has epsilon inside the root, and moments that nothing can read or write.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mspipeline.backends.base import Adam, FloatArray, State
from mspipeline.errors import ShapeError
from mspipeline.optimizers.clipping import clipped_to_norm


class AdamSteps:
    """Adam as `base.Adam` has it, in place on float32 arrays that stay where they are.

    shapes: of the arrays by name; `step` and `state` go by the same names.
    """

    def __init__(self, settings: Adam, shapes: dict[str, tuple[int, ...]]) -> None:
        self._settings = settings
        self._steps = 0
        self._means = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._squares = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def step(
        self, gradients: Mapping[str, FloatArray], weights: dict[str, FloatArray], rate: float | None = None
    ) -> None:
        """One update of every weight. rate: the settings' where None."""
        set_ = self._settings
        rate = set_.learning_rate if rate is None else rate
        if set_.clip_norm is not None:
            gradients = clipped_to_norm(gradients, set_.clip_norm)
        self._steps += 1
        first, second = 1 - set_.beta1**self._steps, 1 - set_.beta2**self._steps
        for name, gradient in gradients.items():
            mean, square = self._means[name], self._squares[name]
            mean += np.float32(1 - set_.beta1) * (gradient - mean)
            square += np.float32(1 - set_.beta2) * (np.square(gradient) - square)
            root = np.sqrt(square * np.float32(1 / second))
            root += np.float32(set_.epsilon)
            weights[name] -= np.float32(rate / first) * mean / root

    def state(self) -> State:
        """A copy of the number of steps and the moments."""
        kept: State = {"optimiser/steps": np.array(self._steps, np.int64)}
        for kind, arrays in (("mean", self._means), ("square", self._squares)):
            kept |= {f"optimiser/{kind}/{name}": values.copy() for name, values in arrays.items()}
        return kept

    def set_state(self, state: State) -> None:
        """Go on from `state`. Raises ShapeError where it is of other arrays."""
        own = self.state()
        differing = sorted(own.keys() ^ state.keys())
        differing += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if differing:
            raise ShapeError(
                f"optimiser state of another network: {len(differing)} entries differ ({differing[0]}, ...); "
                "resume the run that wrote it"
            )
        self._steps = int(state["optimiser/steps"])
        for kind, arrays in (("mean", self._means), ("square", self._squares)):
            for name, values in arrays.items():
                values[...] = state[f"optimiser/{kind}/{name}"]
