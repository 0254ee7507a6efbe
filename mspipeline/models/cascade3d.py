"""The cascade's network on 11^3 patches (Valverde et al. 2017), as published and as the 2021 report ported it.

Two blocks of a 3x3x3 convolution (32, then 64 filters), batch normalisation, ReLU and a maximum over 2^3 that drops the
odd voxel (11 -> 5 -> 2); dropout, 256 units, classes. The cascade runs two such networks one after the other.

Where the three differ, each says so itself: the original (Lasagne) has no convolution bias, normalises before ReLU and
ends in a softmax over two classes; the TensorFlow port adds biases, normalises after ReLU and ends in two logits; the
PyEDDL port has biases, no normalisation and a single logit.
"""

from __future__ import annotations

from mspipeline.models.norms import KERAS_NORM, LASAGNE_NORM
from mspipeline.network.blocks import max_pool, same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, Dense, Dropout, Flatten, Input, Relu, Softmax

KERNEL = (3, 3, 3)
ONES = (1, 1, 1)
UNITS = 256


def cascade3d(
    depth: int, height: int, width: int, channels: int, *, base_width: int = 32, dropout: float = 0.5
) -> Graph:
    """The original, for patches of (depth, height, width, channels): probabilities of background and lesion, (2,).

    base_width: filters of the first block, doubled in the second. Raises ShapeError for patches below 4 voxels.
    """
    builder = Builder("cascade3d")
    x = builder.add("image", Input((depth, height, width, channels)))
    for block in (1, 2):
        x = _conv(builder, f"conv{block}", x, base_width * block, bias=False)
        x = builder.add(f"bn{block}", LASAGNE_NORM, x)
        x = builder.add(f"act{block}", Relu(), x)
        x = max_pool(builder, f"pool{block}", x, (2, 2, 2))
    x = _head(builder, x, dropout, outputs=2)
    return builder.graph(builder.add("probability", Softmax(), x))


def cascade3d_report_tf(depth: int, height: int, width: int, channels: int) -> Graph:
    """The report's TensorFlow port: convolution with bias, ReLU, then batch normalisation; logits, (2,)."""
    builder = Builder("cascade3d_report_tf")
    x = builder.add("image", Input((depth, height, width, channels)))
    for block in (1, 2):
        x = _conv(builder, f"conv{block}", x, 32 * block, bias=True)
        x = builder.add(f"act{block}", Relu(), x)
        x = builder.add(f"bn{block}", KERAS_NORM, x)
        x = max_pool(builder, f"pool{block}", x, (2, 2, 2))
    return builder.graph(_head(builder, x, dropout=0.5, outputs=2))


def cascade3d_report_eddl(depth: int, height: int, width: int, channels: int) -> Graph:
    """The report's PyEDDL port: convolution with bias and ReLU, no normalisation; one logit, (1,), no sigmoid."""
    builder = Builder("cascade3d_report_eddl")
    x = builder.add("image", Input((depth, height, width, channels)))
    for block in (1, 2):
        x = _conv(builder, f"conv{block}", x, 32 * block, bias=True)
        x = builder.add(f"act{block}", Relu(), x)
        x = max_pool(builder, f"pool{block}", x, (2, 2, 2))
    return builder.graph(_head(builder, x, dropout=0.5, outputs=1))


def _conv(builder: Builder, name: str, source: str, filters: int, *, bias: bool) -> str:
    return builder.add(name, Conv(filters, KERNEL, ONES, ONES, same_padding(KERNEL), bias), source)


def _head(builder: Builder, source: str, dropout: float, *, outputs: int) -> str:
    """Flatten, dropout, 256 units with ReLU, logits."""
    x = builder.add("flat", Flatten(), source)
    x = builder.add("drop", Dropout(dropout), x)
    x = builder.add("fc1", Dense(UNITS, bias=True), x)
    x = builder.add("fc1_act", Relu(), x)
    return builder.add("logits", Dense(outputs, bias=True), x)
