"""Mirror images: each of some axes reversed with a chance of 1/2, as nnU-Net's mirroring does."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mspipeline.transforms.transform import FloatArray, Labels, SpatialTransform, check_axes


class Flip(SpatialTransform):
    """axes: spatial axes, of which each is reversed with a chance of 1/2 by itself (Isensee et al. 2021)."""

    name: ClassVar[str] = "flip"

    axes: tuple[int, ...] = (0, 1)

    def check(self, image_shape: tuple[int, ...]) -> None:
        check_axes(self.axes, image_shape)

    def move(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        reversed_axes = tuple(axis for axis in self.axes if random.random() < 0.5)
        return np.flip(image, reversed_axes), np.flip(labels, reversed_axes)
