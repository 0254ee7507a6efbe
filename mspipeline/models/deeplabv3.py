"""DeepLab v3 (Chen et al. 2017) with ResNet-101 at output stride 16 and multi-grid (1, 2, 4).

Layer 5 of the backbone keeps layer 4's resolution, by dilations 2, 4 and 8. Atrous spatial pyramid pooling: 1x1, 3x3 of
dilations 6, 12, 18, and the image's mean, 256 filters each; concatenated, mixed by 1x1, classified by 1x1 with bias.

Source: kazuto1011/deeplab-pytorch at 4219467, which gives batch normalisation the paper's decay 0.9997 in PyTorch's
sense, so that it keeps nothing; here it keeps 0.9997 a step, as the paper says.
"""

from __future__ import annotations

from mspipeline.models.deeplabv2 import to_image
from mspipeline.models.resnet101 import ONES, Layer, backbone, conv_norm
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Concat, Conv, GlobalAverage, Input, Relu, Upsample

NORM = BatchNorm(momentum=0.9997, epsilon=1e-5)
DILATIONS = (6, 12, 18)


def deeplabv3(
    height: int, width: int, channels: int, *, classes: int = 2, base_width: int = 64, full_size: bool = False
) -> Graph:
    """The graph for images of (height, width, channels): logits at about a sixteenth (256 -> 17), last axis classes.

    base_width: filters of the stem, a quarter of those of each pyramid branch. full_size: resize the logits to the
    image, bilinearly, and give probabilities.
    """
    layers = (
        Layer("layer2", base_width, 1, (1,) * 3),
        Layer("layer3", base_width * 2, 2, (1,) * 4),
        Layer("layer4", base_width * 4, 2, (1,) * 23),
        Layer("layer5", base_width * 8, 1, (2, 4, 8)),
    )
    builder = Builder("deeplabv3")
    x = builder.add("image", Input((height, width, channels)))
    x = backbone(builder, x, layers, NORM, base_width)
    x = _pyramid(builder, x, base_width * 4)
    x = builder.add("logits", Conv(classes, ONES, ONES, ONES, same_padding(ONES), bias=True), x)
    return builder.graph(to_image(builder, x, (height, width)) if full_size else x)


def _pyramid(builder: Builder, source: str, filters: int) -> str:
    """Atrous spatial pyramid pooling, mixed to `filters` channels."""
    size = builder.shape(source)[:-1]
    branches = [_activated(builder, "aspp_conv1", source, filters)]
    branches += [
        _activated(builder, f"aspp_dilation{rate}", source, filters, kernel=3, dilation=rate) for rate in DILATIONS
    ]
    x = builder.add("aspp_mean", GlobalAverage(keep_axes=True), source)
    x = _activated(builder, "aspp_pool", x, filters)
    branches.append(builder.add("aspp_pool_up", Upsample(size), x))  # of a single value: bilinear would be the same
    x = builder.add("aspp_concat", Concat(), *branches)
    return _activated(builder, "mix", x, filters)


def _activated(builder: Builder, name: str, source: str, filters: int, *, kernel: int = 1, dilation: int = 1) -> str:
    x = conv_norm(builder, name, source, filters, kernel=kernel, dilation=dilation, norm=NORM)
    return builder.add(f"{name}_act", Relu(), x)
