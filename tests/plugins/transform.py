"""Transforms of another package: a bias field that grows along the first axis, and what may go wrong."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mspipeline.transforms.transform import FloatArray, IntensityTransform


class Bias(IntensityTransform):
    """(1 + slope p) x, p from 0 to 1 along the first axis."""

    name: ClassVar[str] = "bias"

    slope: float = Field(0.5, gt=-1)

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        along = np.linspace(0, 1, len(image), dtype=np.float32).reshape(-1, *[1] * (image.ndim - 1))
        return image * (1 + np.float32(self.slope) * along)


class Cropping(IntensityTransform):
    """Gives fewer voxels than it was given."""

    name: ClassVar[str] = "cropping"

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        return image[1:]


class Unfinished(IntensityTransform):
    """Changes nothing yet."""

    name: ClassVar[str] = "unfinished"
