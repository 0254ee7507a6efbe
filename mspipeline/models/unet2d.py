"""2-D U-Net (Ronneberger et al. 2015) with batch normalisation after each convolution.

Four levels of two 3x3 convolutions, same-padded; up: nearest upsampling and a 2x2 convolution; dropout on the two
deepest levels; head: 3x3 to two channels, 1x1 to one, sigmoid; of several classes, as many, softmax. Base width 64 and
3 channels give the 31,060,241 parameters that the 2021 report prints for its PyEDDL U-Net; `unet2d_report` has the
report's two forms.
"""

from __future__ import annotations

from mspipeline.models.sizes import check_multiple
from mspipeline.network.blocks import BATCH_NORM, conv, max_pool
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import BatchNorm, Concat, Dropout, Input, Op, Relu, Sigmoid, Softmax, Upsample

DEPTH = 4


def unet2d(
    height: int, width: int, channels: int, *, base_width: int = 64, dropout: float = 0.5, classes: int = 1
) -> Graph:
    """The graph for images of (height, width, channels).

    base_width: filters of the first level, doubled at each of the four poolings. dropout: rate on the deepest levels.
    classes: with the background; a single one ends in a sigmoid.
    Raises ShapeError where 16 does not divide the image, with the sizes that would do.
    """
    return assemble("unet2d", (height, width, channels), BATCH_NORM, Relu(), base_width, dropout, classes)


def assemble(
    name: str,
    shape: tuple[int, int, int],
    norm: BatchNorm | None,
    activation: Op,
    base_width: int,
    dropout: float,
    classes: int = 1,
) -> Graph:
    """The U-Net of this name with `norm` after every convolution, the last one's too, or with none."""
    check_multiple(name, shape[:2], 2**DEPTH)
    builder = Builder(name)

    def convolution(node: str, source: str, filters: int, kernel: tuple[int, int]) -> str:
        x = conv(builder, node, source, filters, kernel)
        x = x if norm is None else builder.add(f"{node}_bn", norm, x)
        return builder.add(f"{node}_act", activation, x)

    def double(node: str, source: str, filters: int) -> str:
        return convolution(f"{node}_conv2", convolution(f"{node}_conv1", source, filters, (3, 3)), filters, (3, 3))

    x = builder.add("image", Input(shape))
    skips = []
    for level in range(1, DEPTH + 1):
        x = double(f"enc{level}", x, base_width * 2 ** (level - 1))
        if level == DEPTH:
            x = builder.add(f"enc{level}_drop", Dropout(dropout), x)
        skips.append(x)
        x = max_pool(builder, f"enc{level}_pool", x, (2, 2), exact=True)
    x = double("bottleneck", x, base_width * 2**DEPTH)
    x = builder.add("bottleneck_drop", Dropout(dropout), x)
    for level in range(DEPTH, 0, -1):
        filters = base_width * 2 ** (level - 1)
        x = builder.add(f"dec{level}_up", Upsample((2, 2)), x)
        x = convolution(f"dec{level}_upconv", x, filters, (2, 2))
        x = builder.add(f"dec{level}_concat", Concat(), skips[level - 1], x)
        x = double(f"dec{level}", x, filters)
    x = convolution("head", x, max(2, classes), (3, 3))
    x = conv(builder, "output", x, classes, (1, 1))
    x = x if norm is None else builder.add("output_bn", norm, x)
    return builder.graph(builder.add("probability", Softmax() if classes > 1 else Sigmoid(), x))
