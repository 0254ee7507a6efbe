"""Contrast: each channel stretched about its mean, within its own range."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mspipeline.transforms.transform import (
    Factors,
    FloatArray,
    IntensityTransform,
    Probability,
    draw_factors,
    spatial_axes,
)


class Contrast(IntensityTransform):
    """m + f (x - m), m the channel's mean, cut off at the channel's least and greatest value (nnU-Net).

    factor: range of f, drawn for each channel: below or above 1 with equal chance, uniform there.
    """

    name: ClassVar[str] = "contrast"

    probability: Probability = 0.15
    factor: Factors = (0.75, 1.25)

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        axes = spatial_axes(image)
        factors = draw_factors(self.factor, image.shape[-1], random)
        mean = image.mean(axis=axes, dtype=np.float64).astype(np.float32)
        stretched: FloatArray = np.clip(mean + factors * (image - mean), image.min(axis=axes), image.max(axis=axes))
        return stretched
