"""Operation: what every operation tells of itself, from the shapes of its inputs alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mspipeline.errors import ShapeError

Shape = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]
"""What is added (before, after) along each spatial axis."""

KernelInitial = Literal["glorot_uniform", "he_normal", "he_leaky", "normal_0.01"]
Initial = Literal[KernelInitial, "zeros", "ones", "quarter"]


@dataclass(frozen=True)
class WeightSpec:
    """One array of weights. initial: how `weights.initial_weights` fills it.

    fans: numbers of inputs and outputs that a random initial scales by; (0, 0) for the constant ones.
    """

    shape: Shape
    initial: Initial
    trainable: bool = True
    fans: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Op(ABC):
    """Base of all operations."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the result for these input shapes. Raises ShapeError where they do not fit."""

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        """The arrays of weights by name; none for most operations."""
        return {}

    def macs(self, inputs: Sequence[Shape]) -> int:
        """Multiply-accumulates for one image, of convolutions and matrix products alone, as is the custom."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """Plain data: the operation's name and every argument."""
        return {"op": type(self).__name__, **asdict(self)}


class Pointwise(Op):
    """An operation of one input whose result has its shape."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return one_input(inputs, self)


@dataclass(frozen=True)
class Input(Op):
    """What is fed to the network."""

    shape: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return self.shape


def one_input(inputs: Sequence[Shape], op: Op) -> Shape:
    """The only input's shape. Raises ShapeError where there are none or several."""
    if len(inputs) != 1:
        raise ShapeError(f"{type(op).__name__} takes one input, received {len(inputs)}")
    return inputs[0]


def spatial_input(inputs: Sequence[Shape], op: Op, *arguments: Sequence[object]) -> Shape:
    """The only input's shape, which has one spatial axis for each entry of every argument. Raises ShapeError."""
    shape = one_input(inputs, op)
    if {len(argument) for argument in arguments} != {len(shape) - 1}:
        given = sorted({len(argument) for argument in arguments})
        raise ShapeError(
            f"{type(op).__name__} for {' and '.join(map(str, given))} spatial axes received an input of {shape}, "
            f"which has {len(shape) - 1} and channels"
        )
    return shape
