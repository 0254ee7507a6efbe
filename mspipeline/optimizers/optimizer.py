"""Optimizer: what every update rule is: frozen settings, the arrays that it keeps for each weight, and one formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from mspipeline.arrays import Arrays


class Optimizer(ABC):
    """A frozen dataclass of settings and its update rule, which every backend evaluates.

    learning_rate: of steps that are given none of their own. clip_norm: the largest Euclidean norm of a step's
    gradient, over all weights; a longer one is shortened to it before the rule sees it (Pascanu et al. 2013). None
    clips nothing. These two every optimizer has; its other fields are settings of the same names in a configuration.
    """

    name: ClassVar[str]
    sign_decides: ClassVar[bool] = False
    """Whether the first step is about as long whatever the gradient, whose sign alone decides its direction: near zero
    rounding may then turn the whole step."""
    learning_rate: float
    clip_norm: float | None

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that are kept for each weight, of its shape and zero at first; checkpoints have them."""

    @abstractmethod
    def update(
        self, arrays: Arrays, weight: Any, gradient: Any, slots: tuple[Any, ...], step: Any, rate: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        """The weight and its slots after a step; what is given stays as it is.

        step: its number, counted from 1; rate: its learning rate. Both are Python numbers or an engine's scalars.
        """
