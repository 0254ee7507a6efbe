"""Poolings, kernels and memory of an nnU-Net for one patch size and voxel spacing.

Isensee et al. 2021, as in nnU-Net v2.8.1 (`get_pool_and_conv_props`, `compute_conv_feature_map_size`). An axis is
pooled while it stays long enough; a coarse axis waits until the finer ones are within a factor of two of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Size = tuple[int, int, int]
Spacing = tuple[float, float, float]

LEAST_EDGE = 4
"""Voxels along an axis of the deepest feature map, at least."""
BASE_FEATURES = 32
MOST_FEATURES = 320


@dataclass(frozen=True)
class Topology:
    """Shape of a network. patch: voxels, padded up to multiples of `divisor`.

    strides, kernels: one a stage, from the finest to the bottleneck; the first stride is 1 along every axis.
    """

    patch: Size
    strides: tuple[Size, ...]
    kernels: tuple[Size, ...]

    @property
    def pools(self) -> Size:
        """How often each axis is halved."""
        return size_of(sum(stride[axis] == 2 for stride in self.strides) for axis in range(3))

    @property
    def divisor(self) -> Size:
        """What each axis of a patch must be a multiple of."""
        return size_of(2**count for count in self.pools)

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of each stage: 32, doubled up to 320."""
        return tuple(min(MOST_FEATURES, BASE_FEATURES * 2**stage) for stage in range(len(self.strides)))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Voxels of each stage's feature maps."""
        sizes, size = [], self.patch
        for stride in self.strides:
            size = size_of(extent // step for extent, step in zip(size, stride, strict=True))
            sizes.append(size)
        return tuple(sizes)

    def feature_map_values(self, classes: int) -> int:
        """Values of all feature maps that a training step keeps, for one patch: the planner's measure of memory.

        Two convolutions a stage on the way down; two and a transposed one on the way up; the logits.
        """
        stages = [features * math.prod(size) for features, size in zip(self.features, self.sizes, strict=True)]
        return 2 * sum(stages) + 3 * sum(stages[:-1]) + classes * math.prod(self.patch)


def topology(spacing_mm: Spacing, patch: Size) -> Topology:
    """The network for a patch of voxels with this spacing.

    A patch whose every axis is below 8 voxels gets a single stage, without pooling.

    >>> topology((1.0, 1.0, 1.0), (100, 128, 16)).pools
    (4, 4, 2)
    """
    spacing, size = list(spacing_mm), list(patch)
    kernel = [1, 1, 1]
    strides, kernels = [(1, 1, 1)], []
    while axes := _poolable(spacing, size):
        kernel = [3 if old == 3 or here / min(spacing) < 2 else 1 for old, here in zip(kernel, spacing, strict=True)]
        kernels.append(size_of(kernel))
        strides.append(size_of(2 if axis in axes else 1 for axis in range(3)))
        for axis in axes:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append((3, 3, 3))
    divisor = Topology(patch, tuple(strides), tuple(kernels)).divisor
    padded = size_of(math.ceil(extent / step) * step for extent, step in zip(patch, divisor, strict=True))
    return Topology(padded, tuple(strides), tuple(kernels))


def _poolable(spacing: list[float], size: list[int]) -> list[int]:
    """The axes that the next stage halves: long enough, and with a spacing below twice the finest such axis'.

    A single axis is halved alone only while it has 12 voxels or more.
    """
    long = [axis for axis in range(3) if size[axis] >= 2 * LEAST_EDGE]
    if not long:
        return []
    finest = min(spacing[axis] for axis in long)
    axes = [axis for axis in long if spacing[axis] / finest < 2]
    return [] if len(axes) == 1 and size[axes[0]] < 3 * LEAST_EDGE else axes


def size_of(values: Iterable[float]) -> Size:
    """Three numbers as whole ones."""
    x, y, z = values
    return int(x), int(y), int(z)
