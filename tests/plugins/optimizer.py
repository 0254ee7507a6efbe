"""An optimizer of another package: plain steps against the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mspipeline.arrays import Arrays
from mspipeline.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Plain(Optimizer):
    """w = w - rate gradient / slowness, for a slowness of at least 1."""

    learning_rate: float = 0.1
    clip_norm: float | None = None
    slowness: float = 1.0

    name: ClassVar[str] = "plain"

    def __post_init__(self) -> None:
        if self.slowness < 1:
            raise ValueError(f"slowness {self.slowness}: expected at least 1")

    @property
    def slots(self) -> tuple[str, ...]:
        return ()

    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        return weight - gradient * (rate / self.slowness), ()
