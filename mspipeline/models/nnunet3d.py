"""nnU-Net's 3-D network (Isensee et al. 2021, `PlainConvUNet` of v2), built from a plan's topology.

Each stage: two convolutions with bias, instance normalisation (epsilon 1e-5, affine) and LeakyReLU of slope 0.01; the
first one of a stage pools by its stride. Up: a transposed convolution, the skip concatenated, two convolutions. Heads
of 1x1x1 at every decoder level serve deep supervision. Kernels begin as He et al. 2015 with that slope.

The outputs are logits, finest first: the loss takes them at every level, and inference averages them over mirrored
images before the softmax.
"""

from __future__ import annotations

import math

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.nnunet_topology import Size, Topology, topology
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Concat, Conv, ConvTranspose, Input, InstanceNorm, LeakyRelu

ONES = (1, 1, 1)


def nnunet3d(
    depth: int,
    height: int,
    width: int,
    channels: int,
    *,
    classes: int = 2,
    anisotropy: float = 1.0,
    deep_supervision: bool = True,
) -> Graph:
    """The network that nnU-Net plans for patches of (depth, height, width, channels).

    classes: with the background. anisotropy: spacing along depth over that along height and width.
    deep_supervision: whether the coarser decoder levels have heads too; without, the only output is the finest.
    Raises ConfigError for another anisotropy, ShapeError where the poolings do not divide the patch, with one that
    would do.
    """
    if not 0 < anisotropy < math.inf:
        raise ConfigError(f"model nnunet3d: anisotropy must be a positive ratio of spacings; received: {anisotropy}")
    patch = (depth, height, width)
    planned = topology((float(anisotropy), 1.0, 1.0), patch)
    if planned.patch != patch:
        raise ShapeError(
            f"nnunet3d: a patch of {'x'.join(map(str, patch))} is not a multiple of "
            f"{'x'.join(map(str, planned.divisor))}, as its poolings need; use {'x'.join(map(str, planned.patch))}"
        )
    return from_topology(planned, channels, classes, deep_supervision=deep_supervision)


def from_topology(planned: Topology, channels: int, classes: int, *, deep_supervision: bool = True) -> Graph:
    """The graph of a plan's topology; outputs are logits (*size of the level, classes), finest first.

    Raises ShapeError for a topology of a single stage, which has no decoder.
    """
    stages = len(planned.strides)
    if stages < 2:
        raise ShapeError(
            f"nnunet3d: a patch of {'x'.join(map(str, planned.patch))} is never pooled; "
            "use 8 voxels or more along two axes, or 12 along one"
        )
    builder = Builder("nnunet3d")
    x = builder.add("image", Input((*planned.patch, channels)))
    skips = []
    for stage, (filters, kernel, stride) in enumerate(
        zip(planned.features, planned.kernels, planned.strides, strict=True), 1
    ):
        x = _conv(builder, f"enc{stage}_conv1", x, filters, kernel, stride)
        x = _conv(builder, f"enc{stage}_conv2", x, filters, kernel, ONES)
        skips.append(x)
    heads = []
    for stage in range(stages - 1, 0, -1):
        filters, kernel, stride = planned.features[stage - 1], planned.kernels[stage - 1], planned.strides[stage]
        x = builder.add(f"dec{stage}_up", ConvTranspose(filters, stride, stride, bias=True, initial="he_leaky"), x)
        x = builder.add(f"dec{stage}_concat", Concat(), x, skips[stage - 1])
        x = _conv(builder, f"dec{stage}_conv1", x, filters, kernel, ONES)
        x = _conv(builder, f"dec{stage}_conv2", x, filters, kernel, ONES)
        if deep_supervision or stage == 1:
            head = Conv(classes, ONES, ONES, ONES, same_padding(ONES), bias=True, initial="he_leaky")
            heads.append(builder.add(f"head{stage}", head, x))
    return builder.graph(*reversed(heads))


def _conv(builder: Builder, name: str, source: str, filters: int, kernel: Size, stride: Size) -> str:
    """Convolution, padded by half its kernel, instance normalisation, LeakyReLU."""
    op = Conv(filters, kernel, stride, ONES, same_padding(kernel), bias=True, initial="he_leaky")
    x = builder.add(name, op, source)
    x = builder.add(f"{name}_norm", InstanceNorm(epsilon=1e-5), x)
    return builder.add(f"{name}_act", LeakyRelu(0.01), x)
