"""Quarter turns in a plane, exact: no voxel is interpolated."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mspipeline.transforms.transform import FloatArray, Labels, SpatialTransform, check_axes


class Rotate90(SpatialTransform):
    """A turn by 0, 90, 180 or 270 degrees, equally likely, from the first of `axes` towards the second (`numpy.rot90`).

    Where the plane is no square, by 0 or 180 degrees: the shape stays.
    """

    name: ClassVar[str] = "rotate90"

    axes: tuple[int, int] = (0, 1)

    def check(self, image_shape: tuple[int, ...]) -> None:
        check_axes(self.axes, image_shape)

    def move(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        first, second = self.axes
        square = image.shape[first] == image.shape[second]
        quarters = int(random.integers(4)) if square else 2 * int(random.integers(2))
        return np.rot90(image, quarters, self.axes), np.rot90(labels, quarters, self.axes)
