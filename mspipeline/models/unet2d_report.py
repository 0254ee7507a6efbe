"""The 2021 report's two U-Nets as they were: two different networks under one name.

Both have the structure of `unet2d`. TensorFlow's has ReLU and no normalisation at all. PyEDDL's has LeakyReLU of slope
0.01 and batch normalisation after all 24 convolutions, so that its sigmoid follows a normalisation; its printout adds
running statistics to the trainable numbers.
"""

from __future__ import annotations

from mspipeline.models.unet2d import assemble
from mspipeline.network.blocks import BATCH_NORM
from mspipeline.network.graph import Graph
from mspipeline.network.ops import LeakyRelu, Relu


def unet2d_report_tf(height: int, width: int, channels: int) -> Graph:
    """TensorFlow's, for images of (height, width, channels). Raises ShapeError where 16 does not divide them."""
    shape = (height, width, channels)
    return assemble("unet2d_report_tf", shape, norm=None, activation=Relu(), base_width=64, dropout=0.5)


def unet2d_report_eddl(height: int, width: int, channels: int) -> Graph:
    """PyEDDL's, for images of (height, width, channels). Raises ShapeError where 16 does not divide them."""
    shape = (height, width, channels)
    return assemble("unet2d_report_eddl", shape, BATCH_NORM, LeakyRelu(0.01), base_width=64, dropout=0.5)
