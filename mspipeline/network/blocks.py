"""Blocks that several networks share. Each adds nodes to a builder and returns the name of the last one."""

from __future__ import annotations

from mspipeline.errors import ShapeError
from mspipeline.network.graph import Builder
from mspipeline.network.ops import BatchNorm, Conv, MaxPool, Op, Padding, Shape

BATCH_NORM = BatchNorm(momentum=0.9, epsilon=1e-5)
"""As PyEDDL's default; Keras' own (0.99, 1e-3) needs hundreds of steps before its running statistics mean something."""


def same_padding(kernel: Shape, dilation: Shape | None = None) -> Padding:
    """Zeros that keep the size at stride 1; what is odd comes after, as in TensorFlow. dilation: ones where None.

    >>> same_padding((3, 2))
    ((1, 1), (0, 1))
    >>> same_padding((3, 3), (6, 6))
    ((6, 6), (6, 6))
    """
    totals = (rate * (size - 1) for size, rate in zip(kernel, dilation or (1,) * len(kernel), strict=True))
    return tuple((total // 2, total - total // 2) for total in totals)


def conv(builder: Builder, name: str, source: str, filters: int, kernel: Shape) -> str:
    """Convolution at stride 1 with bias that keeps the size."""
    ones = (1,) * len(kernel)
    return builder.add(name, Conv(filters, kernel, ones, ones, same_padding(kernel), bias=True), source)


def conv_norm(builder: Builder, name: str, source: str, filters: int, kernel: Shape, activation: Op) -> str:
    """`conv`, batch normalisation, activation: nodes `name`, `name_bn`, `name_act`."""
    x = conv(builder, name, source, filters, kernel)
    x = builder.add(f"{name}_bn", BATCH_NORM, x)
    return builder.add(f"{name}_act", activation, x)


def max_pool(builder: Builder, name: str, source: str, size: Shape, *, exact: bool = False) -> str:
    """Maximum over windows of `size` side by side; a rest is dropped, or with `exact` raises ShapeError."""
    shape = builder.shape(source)
    if exact and any(extent % window for extent, window in zip(shape[:-1], size, strict=True)):
        raise ShapeError(f"node {name!r}: MaxPool of {size} does not divide its input of {shape}")
    return builder.add(name, MaxPool(size, size, ((0, 0),) * len(size), ceil=False), source)
