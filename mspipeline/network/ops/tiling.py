"""Operations of programs over tiles, which `dense` derives from networks of the catalogue.

They are not in `ops.__all__`: a graph that holds them is not stored, exported or trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mspipeline.errors import ShapeError
from mspipeline.network.ops.operation import Op, Shape, spatial_input


@dataclass(frozen=True)
class Crop(Op):
    """The box of `size` voxels that begins at voxel `start`; all channels."""

    start: Shape
    size: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.start, self.size)
        ends = [start + size for start, size in zip(self.start, self.size, strict=True)]
        if min(self.start) < 0 or min(self.size) < 1 or any(e > n for e, n in zip(ends, shape[:-1], strict=True)):
            raise ShapeError(f"Crop of {self.size} from {self.start} does not lie inside an input of {shape}")
        return (*self.size, shape[-1])


@dataclass(frozen=True)
class Subtract(Op):
    """The first input less the second, of one shape."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if len(inputs) != 2 or inputs[0] != inputs[1]:
            raise ShapeError(f"Subtract takes two inputs of one shape, received {list(inputs)}")
        return inputs[0]


@dataclass(frozen=True)
class SplitPhases(Op):
    """Every `stride`-th voxel of an image as an image of its own: one for each voxel that can be the first.

    A batch of N images becomes one of N * prod(stride): an image's parts follow each other, in the order of their first
    voxels in memory. Shapes stay those of one image.
    """

    stride: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.stride)
        if any(size % stride for size, stride in zip(shape[:-1], self.stride, strict=True)):
            raise ShapeError(f"SplitPhases by {self.stride} does not divide an input of {shape}")
        return (*(size // stride for size, stride in zip(shape[:-1], self.stride, strict=True)), shape[-1])

    @property
    def parts(self) -> int:
        """Images that one becomes."""
        return math.prod(self.stride)


@dataclass(frozen=True)
class JoinPhases(Op):
    """The inverse of `SplitPhases`."""

    stride: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.stride)
        return (*(size * stride for size, stride in zip(shape[:-1], self.stride, strict=True)), shape[-1])
