"""The network that tests of jobs train: all that makes a U-Net, once each.

It has 12 arrays of weights to train where the suite's own has 96: an engine makes its steps of them the sooner.
"""

from __future__ import annotations

from mspipeline.network.blocks import BATCH_NORM, conv, conv_norm, max_pool
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Concat, Dropout, Input, Relu, Sigmoid, Upsample


def small_unet(height: int, width: int, channels: int, *, base_width: int = 2, dropout: float = 0.5) -> Graph:
    """(H, W, C), both axes even -> one probability a pixel."""
    builder = Builder("small_unet")
    image = builder.add("image", Input((height, width, channels)))
    fine = conv_norm(builder, "enc", image, base_width, (3, 3), Relu())
    x = max_pool(builder, "pool", fine, (2, 2), exact=True)
    x = conv_norm(builder, "bottleneck", x, 2 * base_width, (3, 3), Relu())
    x = builder.add("up", Upsample((2, 2)), builder.add("drop", Dropout(dropout), x))
    x = conv(builder, "output", builder.add("concat", Concat(), fine, x), 1, (1, 1))
    return builder.graph(builder.add("probability", Sigmoid(), builder.add("output_bn", BATCH_NORM, x)))
