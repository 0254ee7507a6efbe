"""The 2021 report's two Double U-Nets as they were: two different networks under one name.

TensorFlow's is the authors' Keras code, with Keras' batch normalisation. PyEDDL's normalises the 16 VGG convolutions
too, and its library ignored two arguments without a word: the three dilated branches of each ASPP are plain 3x3
convolutions, and every bilinear upsampling repeats voxels. Its squeeze-and-excite kernels begin as Glorot's, for want
of another. Its printout counts, beyond this graph, 640 biases of 10 ASPP convolutions that have none in use.
"""

from __future__ import annotations

from mspipeline.models.double_unet import Variant, assemble
from mspipeline.models.norms import KERAS_NORM
from mspipeline.network.blocks import BATCH_NORM
from mspipeline.network.graph import Graph


def double_unet_report_tf(height: int, width: int, channels: int) -> Graph:
    """TensorFlow's, for images of (height, width, channels). Raises ShapeError where 16 does not divide them."""
    variant = Variant(
        "double_unet_report_tf",
        KERAS_NORM,
        vgg_norm=False,
        dilations=(6, 12, 18),
        bilinear=True,
        se_initial="he_normal",
    )
    return assemble(variant, (height, width, channels))


def double_unet_report_eddl(height: int, width: int, channels: int) -> Graph:
    """PyEDDL's, for images of (height, width, channels). Raises ShapeError where 16 does not divide them."""
    variant = Variant(
        "double_unet_report_eddl",
        BATCH_NORM,
        vgg_norm=True,
        dilations=(1, 1, 1),
        bilinear=False,
        se_initial="glorot_uniform",
    )
    return assemble(variant, (height, width, channels))
