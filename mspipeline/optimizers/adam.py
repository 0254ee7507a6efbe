"""`adam`: a step along the running mean of the gradient, in units of its running root mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): epsilon is added outside the root, both moments are bias-corrected.

    m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    w = w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon).

    Keras' own adds epsilon before the correction of v, which makes it 1 / sqrt(1 - beta2^t) times as large: 32 times in
    the first step (decision 0006).
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    clip_norm: float | None = None

    name: ClassVar[str] = "adam"
    sign_decides: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum", "velocity")

    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        mean, square = slots
        first, second = 1 - self.beta1**step, arrays.sqrt(1 - self.beta2**step)
        mean = mean + (gradient - mean) * (1 - self.beta1)
        square = square + (arrays.square(gradient) - square) * (1 - self.beta2)
        change = mean * (rate * second / first) / (arrays.sqrt(square) + self.epsilon * second)
        return weight - change, (mean, square)
