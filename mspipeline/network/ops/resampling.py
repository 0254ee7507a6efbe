"""Operations that change the spatial grid without weights: pooling, upsampling, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.network.ops.operation import Op, Padding, Shape, one_input, spatial_input


@dataclass(frozen=True)
class _Pool(Op):
    """Windows of `size` every `stride` voxels over the padded input.

    ceil: whether a last window may hang over the end, by PyTorch's rule: it must begin inside the input or the padding
    before it. Without, the rest is dropped. Raises ConfigError where a padding is as wide as the window.
    """

    size: Shape
    stride: Shape
    padding: Padding
    ceil: bool

    def __post_init__(self) -> None:
        if any(max(padding) >= size for padding, size in zip(self.padding, self.size, strict=True)):
            raise ConfigError(
                f"{type(self).__name__} needs padding narrower than its window; "
                f"received: size={self.size}, padding={self.padding}"
            )

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.size, self.stride, self.padding)
        spatial = []
        for extent, size, stride, (before, after) in zip(shape[:-1], self.size, self.stride, self.padding, strict=True):
            room = extent + before + after - size
            windows = (room + (stride - 1 if self.ceil else 0)) // stride + 1
            if self.ceil and (windows - 1) * stride >= extent + before:
                windows -= 1
            spatial.append(windows)
        if min(spatial) < 1:
            raise ShapeError(
                f"{type(self).__name__} of {self.size} with padding {self.padding} does not fit into an input "
                f"of {shape}"
            )
        return (*spatial, shape[-1])

    def overhang(self, shape: Shape) -> Shape:
        """Voxels by which the last window passes the padded input's end, per axis; zeros without `ceil`."""
        spatial = self.output_shape([shape])[:-1]
        return tuple(
            max(0, (windows - 1) * stride + size - (extent + before + after))
            for windows, extent, size, stride, (before, after) in zip(
                spatial, shape[:-1], self.size, self.stride, self.padding, strict=True
            )
        )


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Maximum over each window; padding and what hangs over count as minus infinity."""


@dataclass(frozen=True)
class AveragePool(_Pool):
    """Mean over each window; zeros of the padding count, what hangs over does not, as PyTorch's default is."""


@dataclass(frozen=True)
class GlobalAverage(Op):
    """Mean over all spatial axes: (..., C) becomes (1, ..., 1, C) with `keep_axes`, else (C,)."""

    keep_axes: bool

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = one_input(inputs, self)
        return (*(1 for _ in shape[:-1]), shape[-1]) if self.keep_axes else shape[-1:]


@dataclass(frozen=True)
class Upsample(Op):
    """Repeat each value `factor` times along each spatial axis (nearest neighbour)."""

    factor: Shape

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.factor)
        return (*(extent * factor for extent, factor in zip(shape[:-1], self.factor, strict=True)), shape[-1])


@dataclass(frozen=True)
class Resize(Op):
    """Values at the places of a grid of `size`, without smoothing first; with n voxels becoming m along an axis:

    "nearest": voxel floor(i n / m) for i, as PyTorch's "nearest". "bilinear": linear along each axis (so trilinear in
    3-D) between voxel centres, at i (n - 1) / (m - 1) with align_corners (0 where m is 1), else at
    (i + 1/2) n / m - 1/2, held at the ends. Raises ConfigError for "nearest" with align_corners.
    """

    size: Shape
    method: Literal["nearest", "bilinear"]
    align_corners: bool

    def __post_init__(self) -> None:
        if self.method == "nearest" and self.align_corners:
            raise ConfigError("Resize by nearest has no align_corners; received: align_corners=True")
        if min(self.size) < 1:
            raise ConfigError(f"Resize needs sizes of at least 1; received: size={self.size}")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*self.size, spatial_input(inputs, self, self.size)[-1])
