"""An optimizer of another package: plain steps against the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Plain(Optimizer):
    """w = w - rate gradient."""

    learning_rate: float = 0.1
    clip_norm: float | None = None

    name: ClassVar[str] = "plain"

    @property
    def slots(self) -> tuple[str, ...]:
        return ()

    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        return weight - gradient * rate, ()
