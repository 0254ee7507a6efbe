"""ResNet-101 (He et al. 2016) as DeepLab's backbone: strides given up for dilations.

Stem: 7x7 of stride 2 and a 3x3 maximum of stride 2 whose last window may hang over the end. Then 3, 4, 23 and 3
bottlenecks (1x1, 3x3, 1x1 to four times the width) in layers 2 to 5. The first 1x1 carries a layer's stride, as in
Caffe; the layer's first shortcut is a 1x1 too. No convolution has a bias; each is normalised.

Source: kazuto1011/deeplab-pytorch at 4219467, `resnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder
from mspipeline.network.ops import Add, BatchNorm, Conv, MaxPool, Relu

EXPANSION = 4
ONES = (1, 1)


@dataclass(frozen=True)
class Layer:
    """Bottlenecks of one width at one resolution. dilations: of each bottleneck's 3x3."""

    name: str
    width: int
    stride: int
    dilations: Sequence[int]


def backbone(builder: Builder, source: str, layers: Sequence[Layer], norm: BatchNorm, stem_width: int = 64) -> str:
    """Stem and layers; the name of the last node."""
    x = conv_norm(builder, "stem_conv", source, stem_width, kernel=7, stride=2, norm=norm)
    x = builder.add("stem_act", Relu(), x)
    x = builder.add("stem_pool", MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), ceil=True), x)
    for layer in layers:
        for place, dilation in enumerate(layer.dilations, 1):
            stride = layer.stride if place == 1 else 1
            x = _bottleneck(builder, f"{layer.name}_{place}", x, layer.width, stride, dilation, norm, first=place == 1)
    return x


def conv_norm(
    builder: Builder,
    name: str,
    source: str,
    filters: int,
    *,
    kernel: int,
    norm: BatchNorm,
    stride: int = 1,
    dilation: int = 1,
) -> str:
    """Square convolution without bias, padded on both sides by half its extent, and batch normalisation."""
    square, rates = (kernel, kernel), (dilation, dilation)
    padding = same_padding(square, rates)
    x = builder.add(
        name, Conv(filters, square, (stride, stride), rates, padding, bias=False, initial="he_normal"), source
    )
    return builder.add(f"{name}_bn", norm, x)


def _bottleneck(
    builder: Builder, name: str, source: str, width: int, stride: int, dilation: int, norm: BatchNorm, *, first: bool
) -> str:
    """1x1, 3x3, 1x1 and the shortcut, which is the input itself but in a layer's first bottleneck."""
    x = conv_norm(builder, f"{name}_reduce", source, width, kernel=1, stride=stride, norm=norm)
    x = builder.add(f"{name}_reduce_act", Relu(), x)
    x = conv_norm(builder, f"{name}_conv", x, width, kernel=3, dilation=dilation, norm=norm)
    x = builder.add(f"{name}_conv_act", Relu(), x)
    x = conv_norm(builder, f"{name}_increase", x, width * EXPANSION, kernel=1, norm=norm)
    shortcut = source
    if first:
        shortcut = conv_norm(builder, f"{name}_shortcut", source, width * EXPANSION, kernel=1, stride=stride, norm=norm)
    x = builder.add(f"{name}_sum", Add(), x, shortcut)
    return builder.add(f"{name}_act", Relu(), x)
