"""`sgd`: stochastic gradient descent with Nesterov's momentum and weight decay, as nnU-Net trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013) in the form of torch.optim.SGD without dampening.

    g = gradient + weight_decay w; b = momentum b + g; w = w - rate (g + momentum b), or without `nesterov` w - rate b.

    weight_decay is L2: it is added to the gradient, after clipping, of every weight there is, biases and scales of
    normalisations included, and so goes through the momentum. Defaults are nnU-Net's (Isensee et al. 2021), whose
    rate falls by `poly` from 0.01. The rate stands outside of b, so that a schedule does not rescale what was gathered
    before; Keras' own SGD has it inside.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.99
    nesterov: bool = True
    weight_decay: float = 3e-5
    clip_norm: float | None = None

    name: ClassVar[str] = "sgd"

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        if self.weight_decay:
            gradient = gradient + weight * self.weight_decay
        if not slots:
            return weight - gradient * rate, ()
        gathered = slots[0] * self.momentum + gradient
        direction = gradient + gathered * self.momentum if self.nesterov else gathered
        return weight - direction * rate, (gathered,)
