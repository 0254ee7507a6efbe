"""A network of another package: one convolution and a sigmoid."""

from __future__ import annotations

from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Input, Sigmoid


def one_convolution(height: int, width: int, channels: int, *, kernel: int = 3) -> Graph:
    """A convolution, an odd kernel of it, and a sigmoid."""
    builder, half = Builder("one_convolution"), kernel // 2
    x = builder.add("image", Input((height, width, channels)))
    x = builder.add("conv", Conv(1, (kernel, kernel), (1, 1), (1, 1), ((half, half), (half, half)), bias=True), x)
    return builder.graph(builder.add("out", Sigmoid(), x))
