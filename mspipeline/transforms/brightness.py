"""Brightness: each channel multiplied by a number of its own."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mspipeline.transforms.transform import Factors, FloatArray, IntensityTransform, Probability


class Brightness(IntensityTransform):
    """f x, f drawn uniformly from `factor` for each channel (nnU-Net's multiplicative brightness); 0 stays 0."""

    name: ClassVar[str] = "brightness"

    probability: Probability = 0.15
    factor: Factors = (0.75, 1.25)

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        low, high = self.factor
        brighter: FloatArray = image * random.uniform(low, high, (image.shape[-1],)).astype(np.float32)
        return brighter
