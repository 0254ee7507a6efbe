"""`adadelta`: steps in units of the steps before, which the published training of the cascade takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012, algorithm 1), its step times a rate, which the paper has as 1.

    v = rho v + (1 - rho) g^2; d = g sqrt(u + epsilon) / sqrt(v + epsilon); u = rho u + (1 - rho) d^2; w = w - rate d.

    Defaults are those of the Keras 2.0 that nicMSlesions trained the cascade with; the paper has epsilon 1e-6, Keras 3
    1e-7. It decides how long the first steps are, sqrt(epsilon / (1 - rho)) whatever the gradient: here 4e-4.
    """

    learning_rate: float = 1.0
    rho: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float | None = None

    name: ClassVar[str] = "adadelta"
    sign_decides: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("accumulated_grad", "accumulated_delta_var")

    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        squares, steps = slots
        squares = squares * self.rho + arrays.square(gradient) * (1 - self.rho)
        change = gradient * arrays.sqrt(steps + self.epsilon) / arrays.sqrt(squares + self.epsilon)
        steps = steps * self.rho + arrays.square(change) * (1 - self.rho)
        return weight - change * rate, (squares, steps)
