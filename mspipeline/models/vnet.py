"""V-Net (Milletari et al. 2016): a 3-D residual network of 5x5x5 convolutions.

Down: 1, 2, 3, 3, 3 convolutions of 16 to 256 filters, between them 2^3 convolutions of stride 2. Up: a 2^3 transposed
convolution to half the channels, the skip concatenated, then 3, 3, 2, 1 convolutions of 256, 128, 64, 32 filters. Each
stage adds its input to its last convolution; PReLU, an alpha a channel, after every convolution; softmax over a 1x1x1
convolution. Convolutions have biases; there is no normalisation and no dropout.

The paper's figure is followed; its table of receptive fields (5, 22, 72, 172, 372 voxels on the way down) confirms the
numbers of convolutions. Public ports differ: vnet.pytorch and MONAI normalise each convolution, have 1, 1, 2, 3, 2 and
2, 2, 1, 1 of them, and end in a 5x5x5 before the 1x1x1. The image joins the first stage's sum as copies, 16 channels in
all, as in those ports; the paper's image has a single channel.
"""

from __future__ import annotations

from mspipeline.errors import ShapeError
from mspipeline.models.sizes import check_multiple
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Add, Concat, Conv, ConvTranspose, Input, PRelu, Sigmoid, Softmax

DOWN = (1, 2, 3, 3, 3)
UP = (3, 3, 2, 1)
KERNEL = (5, 5, 5)
ONES = (1, 1, 1)
TWOS = (2, 2, 2)
NO_PADDING = ((0, 0),) * 3
PRELU = PRelu("channel", initial="quarter")


def vnet(depth: int, height: int, width: int, channels: int, *, base_width: int = 16, classes: int = 2) -> Graph:
    """The graph for images of (depth, height, width, channels): probabilities (depth, height, width, classes).

    base_width: filters of the first stage. classes: with the background; a single one ends in a sigmoid. The paper's
    images are (64, 128, 128, 1), axes in some order.
    Raises ShapeError where 16 does not divide an axis, or the channels do not divide `base_width`.
    """
    sizes = (depth, height, width)
    check_multiple("vnet", sizes, 2 ** (len(DOWN) - 1))
    if base_width % channels:
        raise ShapeError(
            f"vnet: {channels} channels do not divide base_width={base_width}, as the first residual sum needs; "
            f"use a multiple of {channels}"
        )
    builder = Builder("vnet")
    image = builder.add("image", Input((*sizes, channels)))
    x = builder.add("image_copies", Concat(), *[image] * (base_width // channels)) if channels < base_width else image
    x = _stage(builder, "down1", image, x, base_width, DOWN[0])
    skips = []
    for level, convolutions in enumerate(DOWN[1:], 2):
        skips.append(x)
        filters = base_width * 2 ** (level - 1)
        x = builder.add(f"down{level}_conv", Conv(filters, TWOS, TWOS, ONES, NO_PADDING, bias=True), x)
        x = builder.add(f"down{level}_act", PRELU, x)
        x = _stage(builder, f"down{level}", x, x, filters, convolutions)
    for level, convolutions in zip(range(len(UP), 0, -1), UP, strict=True):
        filters = base_width * 2 ** (level - 1)
        x = builder.add(f"up{level}_conv", ConvTranspose(filters, TWOS, TWOS, bias=True), x)
        x = builder.add(f"up{level}_act", PRELU, x)
        x = builder.add(f"up{level}_concat", Concat(), x, skips[level - 1])
        x = _stage(builder, f"up{level}", x, x, 2 * filters, convolutions)
    x = builder.add("logits", Conv(classes, ONES, ONES, ONES, NO_PADDING, bias=True), x)
    return builder.graph(builder.add("probability", Softmax() if classes > 1 else Sigmoid(), x))


def _stage(builder: Builder, name: str, source: str, residual: str, filters: int, convolutions: int) -> str:
    """Convolutions with PReLU; the last one's result is summed with `residual` before its PReLU."""
    x = source
    for place in range(1, convolutions + 1):
        x = builder.add(f"{name}_conv{place}", Conv(filters, KERNEL, ONES, ONES, same_padding(KERNEL), bias=True), x)
        if place == convolutions:
            x = builder.add(f"{name}_sum", Add(), x, residual)
        x = builder.add(f"{name}_conv{place}_act", PRELU, x)
    return x
