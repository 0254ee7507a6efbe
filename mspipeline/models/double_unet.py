"""Double U-Net (Jha et al. 2020): a VGG-19 U-Net whose output masks the image for a second, smaller U-Net.

First network: the 16 convolutions of VGG-19 from random weights, without normalisation; atrous spatial pyramid pooling
(ASPP: image mean, 1x1, and 3x3 of dilations 6, 12, 18); four decoder blocks. The image times its output enters the
second network: four encoder blocks, ASPP, four decoder blocks with the skips of both encoders. A block: two 3x3
convolutions with batch normalisation and ReLU, then squeeze-and-excite (ratio 8, no bias). Up: bilinear between voxel
centres. The output is the second network's probability; the paper stacks both.

The authors' Keras code is followed where the paper is silent. `double_unet_report` has the 2021 report's two forms.
"""

from __future__ import annotations

from dataclasses import dataclass

from mspipeline.errors import ConfigError
from mspipeline.models.sizes import check_multiple
from mspipeline.network.blocks import BATCH_NORM, conv, max_pool, same_padding
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import (
    BatchNorm,
    Concat,
    Conv,
    Dense,
    GlobalAverage,
    Input,
    KernelInitial,
    Multiply,
    Relu,
    Resize,
    Sigmoid,
    Upsample,
)

LEVELS = 4
VGG_CONVOLUTIONS = (2, 2, 4, 4, 4)
VGG_WIDTHS = (1, 2, 4, 8, 8)
"""Filters of each VGG block, over those of the first."""
SE_RATIO = 8
THREES = (3, 3)
ONES = (1, 1)


@dataclass(frozen=True)
class Variant:
    """What implementations of the network differ in. vgg_norm: batch normalisation after each VGG convolution too.

    dilations: of ASPP's 3x3 branches. bilinear: whether upsampling interpolates or repeats. se_initial: of
    squeeze-and-excite's kernels.
    """

    name: str
    norm: BatchNorm
    vgg_norm: bool
    dilations: tuple[int, int, int]
    bilinear: bool
    se_initial: KernelInitial


def double_unet(height: int, width: int, channels: int, *, base_width: int = 64, networks: int = 2) -> Graph:
    """The graph for images of (height, width, channels): one probability a pixel.

    base_width: filters of the first VGG block and of ASPP's branches, a multiple of 16. networks: 1 stops at the first
    network's output. Raises ConfigError for other values, ShapeError where 16 does not divide the image.
    """
    variant = Variant(
        "double_unet", BATCH_NORM, vgg_norm=False, dilations=(6, 12, 18), bilinear=True, se_initial="he_normal"
    )
    return assemble(variant, (height, width, channels), base_width, networks)


def assemble(variant: Variant, shape: tuple[int, int, int], base_width: int = 64, networks: int = 2) -> Graph:
    """The graph of a variant, for images of this shape. Raises as `double_unet` does."""
    _check(variant.name, shape, base_width, networks)
    builder = Builder(variant.name)
    make = _Blocks(builder, variant, base_width)
    image = builder.add("image", Input(shape))
    x, vgg_skips = make.vgg(image)
    x = make.aspp("aspp1", x)
    x = make.decoder("dec1", x, [[skip] for skip in vgg_skips])
    x = make.output("output1", x)
    if networks == 1:
        return builder.graph(x)
    x = builder.add("masked_image", Multiply(), image, x)
    x, skips = make.encoder("enc2", x)
    x = make.aspp("aspp2", x)
    x = make.decoder("dec2", x, [list(pair) for pair in zip(vgg_skips, skips, strict=True)])
    return builder.graph(make.output("output2", x))


def _check(name: str, shape: tuple[int, int, int], base_width: int, networks: int) -> None:
    if base_width % (2 * SE_RATIO):
        raise ConfigError(f"model {name}: base_width must be a multiple of {2 * SE_RATIO}; received: {base_width}")
    if networks not in (1, 2):
        raise ConfigError(f"model {name}: networks must be 1 or 2; received: {networks}")
    check_multiple(name, shape[:2], 2**LEVELS)


class _Blocks:
    """The network's blocks, each adding nodes to one builder."""

    def __init__(self, builder: Builder, variant: Variant, base_width: int) -> None:
        self._builder = builder
        self._add = builder.add
        self._variant = variant
        self._base_width = base_width
        self._widths = [base_width // 2 * 2**level for level in range(LEVELS)]
        """Filters of encoder and decoder blocks, from the finest."""

    def vgg(self, x: str) -> tuple[str, list[str]]:
        """VGG-19 without its last pooling: the result, and the last convolution of each of the four finer blocks."""
        skips = []
        for block, (convolutions, factor) in enumerate(zip(VGG_CONVOLUTIONS, VGG_WIDTHS, strict=True), 1):
            for place in range(1, convolutions + 1):
                name = f"vgg{block}_conv{place}"
                x = conv(self._builder, name, x, self._base_width * factor, THREES)
                x = self._norm_relu(name, x) if self._variant.vgg_norm else self._add(f"{name}_act", Relu(), x)
            if block <= LEVELS:
                skips.append(x)
                x = max_pool(self._builder, f"vgg{block}_pool", x, (2, 2))
        return x, skips

    def aspp(self, name: str, source: str) -> str:
        """Image mean, 1x1 and three dilated branches, concatenated and mixed by 1x1; only the mean's has a bias."""
        size, filters = self._builder.shape(source)[:-1], self._base_width
        x = self._add(f"{name}_mean", GlobalAverage(keep_axes=True), source)
        x = self._norm_relu(f"{name}_pool", conv(self._builder, f"{name}_pool", x, filters, ONES))
        branches = [self._add(f"{name}_pool_up", Upsample(size), x)]  # of a single value: bilinear would be the same
        branches.append(self._conv_norm(f"{name}_conv1", source, filters, ONES, ONES))
        for rate in self._variant.dilations:
            branch = f"{name}_conv{len(branches)}"
            branches.append(self._conv_norm(branch, source, filters, THREES, (rate, rate)))
        x = self._add(f"{name}_concat", Concat(), *branches)
        return self._conv_norm(f"{name}_mix", x, filters, ONES, ONES)

    def encoder(self, name: str, x: str) -> tuple[str, list[str]]:
        """Four blocks, each followed by a pooling: the result, and the blocks before it."""
        skips = []
        for level in range(1, LEVELS + 1):
            skips.append(self._block(f"{name}_{level}", x, self._widths[level - 1]))
            x = max_pool(self._builder, f"{name}_{level}_pool", skips[-1], (2, 2))
        return x, skips

    def decoder(self, name: str, x: str, skips: list[list[str]]) -> str:
        """Four times up, each with the skips of its level; `skips` begins with the finest."""
        for level in range(LEVELS, 0, -1):
            here = f"{name}_{level}"
            height, width, _ = self._builder.shape(x)
            doubled = Resize((2 * height, 2 * width), "bilinear", align_corners=False)
            x = self._add(f"{here}_up", doubled if self._variant.bilinear else Upsample((2, 2)), x)
            x = self._add(f"{here}_concat", Concat(), x, *skips[level - 1])
            x = self._block(here, x, self._widths[level - 1])
        return x

    def output(self, name: str, source: str) -> str:
        """1x1 to one channel, sigmoid."""
        x = conv(self._builder, f"{name}_conv", source, 1, ONES)
        return self._add(name, Sigmoid(), x)

    def _block(self, name: str, x: str, filters: int) -> str:
        """Two normalised 3x3 convolutions and squeeze-and-excite."""
        for place in (1, 2):
            x = self._norm_relu(f"{name}_conv{place}", conv(self._builder, f"{name}_conv{place}", x, filters, THREES))
        initial = self._variant.se_initial
        gate = self._add(f"{name}_se_mean", GlobalAverage(keep_axes=True), x)
        gate = self._add(f"{name}_se_squeeze", Dense(filters // SE_RATIO, bias=False, initial=initial), gate)
        gate = self._add(f"{name}_se_act", Relu(), gate)
        gate = self._add(f"{name}_se_excite", Dense(filters, bias=False, initial=initial), gate)
        gate = self._add(f"{name}_se_gate", Sigmoid(), gate)
        return self._add(f"{name}_se", Multiply(), x, gate)

    def _conv_norm(
        self, name: str, source: str, filters: int, kernel: tuple[int, int], dilation: tuple[int, int]
    ) -> str:
        """Convolution without bias that keeps the size, batch normalisation, ReLU."""
        op = Conv(filters, kernel, ONES, dilation, same_padding(kernel, dilation), bias=False)
        return self._norm_relu(name, self._add(name, op, source))

    def _norm_relu(self, name: str, source: str) -> str:
        x = self._add(f"{name}_bn", self._variant.norm, source)
        return self._add(f"{name}_act", Relu(), x)
