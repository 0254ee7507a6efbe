"""DeepLab v2 (Chen et al. 2018) with ResNet-101: four dilated classifiers, summed, at an eighth of the image's size.

Layers 4 and 5 of the backbone keep layer 3's resolution, by dilations 2 and 4. The classifiers are 3x3 of dilations 6,
12, 18 and 24, with bias; their kernels begin with a deviation of 0.01. Batch normalisation is meant to stay frozen in
training, as in the authors' code; momentum 0.999 says how slowly it would move.

Source: kazuto1011/deeplab-pytorch at 4219467. Its multi-scale form runs this same network on the image at 1.0, 0.75 and
0.5 of its size with one set of weights and takes the maximum; a graph's nodes own their weights, so that form is three
calls of this graph, not a graph.
"""

from __future__ import annotations

from mspipeline.models.resnet101 import ONES, Layer, backbone
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Add, BatchNorm, Conv, Input, Resize, Sigmoid, Softmax

NORM = BatchNorm(momentum=0.999, epsilon=1e-5)
THREES = (3, 3)
DILATIONS = (6, 12, 18, 24)


def deeplabv2(
    height: int, width: int, channels: int, *, classes: int = 2, base_width: int = 64, full_size: bool = False
) -> Graph:
    """The graph for images of (height, width, channels): logits at about an eighth (256 -> 33), last axis classes.

    base_width: filters of the stem. full_size: resize the logits to the image, bilinearly, and give probabilities.
    """
    layers = (
        Layer("layer2", base_width, 1, (1,) * 3),
        Layer("layer3", base_width * 2, 2, (1,) * 4),
        Layer("layer4", base_width * 4, 1, (2,) * 23),
        Layer("layer5", base_width * 8, 1, (4,) * 3),
    )
    builder = Builder("deeplabv2")
    x = builder.add("image", Input((height, width, channels)))
    x = backbone(builder, x, layers, NORM, base_width)
    branches = []
    for rate in DILATIONS:
        padding = same_padding(THREES, (rate, rate))
        op = Conv(classes, THREES, ONES, (rate, rate), padding, bias=True, initial="normal_0.01")
        branches.append(builder.add(f"aspp_dilation{rate}", op, x))
    x = builder.add("logits", Add(), *branches)
    return builder.graph(to_image(builder, x, (height, width)) if full_size else x)


def to_image(builder: Builder, logits: str, size: tuple[int, int]) -> str:
    """Logits resized to the image, as the authors do before scoring, and softmax; of a single class, sigmoid."""
    x = builder.add("logits_full", Resize(size, "bilinear", align_corners=False), logits)
    return builder.add("probability", Softmax() if builder.shape(x)[-1] > 1 else Sigmoid(), x)
