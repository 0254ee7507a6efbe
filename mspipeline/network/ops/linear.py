"""Operations that are linear in their input, with a kernel: convolution, transposed convolution, dense.

A kernel's last two axes are (in, out) in all of them; a backend that stores another layout transposes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.network.ops.operation import (
    KernelInitial,
    Op,
    Padding,
    Shape,
    WeightSpec,
    one_input,
    spatial_input,
)


def _specs(kernel: WeightSpec, *, bias: bool) -> dict[str, WeightSpec]:
    specs = {"kernel": kernel}
    if bias:
        specs["bias"] = WeightSpec(kernel.shape[-1:], "zeros")
    return specs


@dataclass(frozen=True)
class Conv(Op):
    """Convolution (cross-correlation, as in every framework) over 2 or 3 spatial axes. Kernel: (k..., in, out)."""

    filters: int
    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: Padding
    bias: bool
    initial: KernelInitial = "glorot_uniform"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.kernel, self.stride, self.dilation, self.padding)
        spatial = tuple(
            (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for size, (before, after), dilation, kernel, stride in zip(
                shape[:-1], self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        if min(spatial) < 1:
            raise ShapeError(
                f"Conv with kernel {self.kernel}, dilation {self.dilation} and padding {self.padding} does not fit "
                f"into an input of {shape}"
            )
        return (*spatial, self.filters)

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        received, taps = inputs[0][-1], math.prod(self.kernel)
        fans = (taps * received, taps * self.filters)
        return _specs(WeightSpec((*self.kernel, received, self.filters), self.initial, fans=fans), bias=self.bias)

    def macs(self, inputs: Sequence[Shape]) -> int:
        return math.prod(self.output_shape(inputs)) * math.prod(self.kernel) * inputs[0][-1]


@dataclass(frozen=True)
class ConvTranspose(Op):
    """Transposed convolution: result[i * stride + j] is the sum of input[i] @ kernel[j]. Kernel: (k..., in, out).

    Nothing is cropped: n becomes (n - 1) * stride + kernel. Its fan-in counts output channels times taps, as PyTorch
    and Keras have it, so that "he_leaky" is nnU-Net's. Raises ConfigError where a stride is wider than the kernel.
    """

    filters: int
    kernel: Shape
    stride: Shape
    bias: bool
    initial: KernelInitial = "glorot_uniform"

    def __post_init__(self) -> None:
        if any(kernel < stride for kernel, stride in zip(self.kernel, self.stride, strict=True)):
            raise ConfigError(
                f"ConvTranspose needs a kernel at least as wide as its stride; "
                f"received: kernel={self.kernel}, stride={self.stride}"
            )

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = spatial_input(inputs, self, self.kernel)
        spatial = (
            (size - 1) * stride + kernel
            for size, kernel, stride in zip(shape[:-1], self.kernel, self.stride, strict=True)
        )
        return (*spatial, self.filters)

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        received, taps = inputs[0][-1], math.prod(self.kernel)
        fans = (taps * self.filters, taps * received)
        return _specs(WeightSpec((*self.kernel, received, self.filters), self.initial, fans=fans), bias=self.bias)

    def macs(self, inputs: Sequence[Shape]) -> int:
        return math.prod(inputs[0]) * math.prod(self.kernel) * self.filters


@dataclass(frozen=True)
class Dense(Op):
    """Matrix product over the last axis, whatever stands before it. Kernel: (in, out)."""

    units: int
    bias: bool
    initial: KernelInitial = "glorot_uniform"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (*one_input(inputs, self)[:-1], self.units)

    def weights(self, inputs: Sequence[Shape]) -> dict[str, WeightSpec]:
        shape = (inputs[0][-1], self.units)
        return _specs(WeightSpec(shape, self.initial, fans=shape), bias=self.bias)

    def macs(self, inputs: Sequence[Shape]) -> int:
        return math.prod(inputs[0]) * self.units
