"""Operations of a graph: each states its arguments in full, and tells its output shape, weights and work.

Shapes have no batch axis and end in channels: (H, W, C) or (D, H, W, C). How a weight begins is part of the operation,
so that every backend starts from the same numbers.

May import: `errors`.
"""

from mspipeline.network.ops.joining import Add, Concat, Flatten, Maximum, Multiply
from mspipeline.network.ops.linear import Conv, ConvTranspose, Dense
from mspipeline.network.ops.operation import Input, KernelInitial, Op, Padding, Shape, WeightSpec
from mspipeline.network.ops.pointwise import (
    BatchNorm,
    Dropout,
    InstanceNorm,
    LeakyRelu,
    PRelu,
    Relu,
    Sigmoid,
    Softmax,
)
from mspipeline.network.ops.resampling import AveragePool, GlobalAverage, MaxPool, Resize, Upsample

__all__ = [
    "Add",
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAverage",
    "Input",
    "InstanceNorm",
    "KernelInitial",
    "LeakyRelu",
    "MaxPool",
    "Maximum",
    "Multiply",
    "Op",
    "PRelu",
    "Padding",
    "Relu",
    "Resize",
    "Shape",
    "Sigmoid",
    "Softmax",
    "Upsample",
    "WeightSpec",
]
