"""Operations that join several inputs, or lay one out anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mspipeline.errors import ShapeError
from mspipeline.network.ops.operation import Op, Shape, one_input


def _several(inputs: Sequence[Shape], op: Op) -> None:
    if len(inputs) < 2:
        raise ShapeError(f"{type(op).__name__} takes two inputs or more, received {len(inputs)}")


@dataclass(frozen=True)
class Concat(Op):
    """Inputs joined along channels."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len({shape[:-1] for shape in inputs}) != 1:
            raise ShapeError(f"Concat needs inputs of one spatial size, received {list(inputs)}")
        return (*inputs[0][:-1], sum(shape[-1] for shape in inputs))


class _Elementwise(Op):
    """An operation of two or more inputs of one shape."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        _several(inputs, self)
        if len(set(inputs)) != 1:
            raise ShapeError(f"{type(self).__name__} needs inputs of one shape, received {list(inputs)}")
        return inputs[0]


@dataclass(frozen=True)
class Add(_Elementwise):
    """Sum of inputs of one shape."""


@dataclass(frozen=True)
class Maximum(_Elementwise):
    """Largest value at each place, over inputs of one shape."""


@dataclass(frozen=True)
class Multiply(Op):
    """Product of inputs of one rank; an axis of size 1, spatial or channel, is repeated to the others' size."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        _several(inputs, self)
        sizes = [set(axis) - {1} for axis in zip(*inputs, strict=False)]
        if len({len(shape) for shape in inputs}) != 1 or any(len(axis) > 1 for axis in sizes):
            raise ShapeError(f"Multiply needs axes that are equal or 1, received {list(inputs)}")
        return tuple(axis.pop() if axis else 1 for axis in sizes)


@dataclass(frozen=True)
class Flatten(Op):
    """All values in one axis, in C order: the last axis, the channels, runs fastest."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (math.prod(one_input(inputs, self)),)
