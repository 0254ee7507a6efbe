"""Additive Gaussian noise."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mspipeline.transforms.transform import FloatArray, IntensityTransform, Probability, Range


class GaussianNoise(IntensityTransform):
    """x + n, n normal with mean 0 at each voxel and channel.

    sigma: range of its standard deviation, drawn uniformly for each image. nnU-Net (Isensee et al. 2021) draws from
    the same range, calls it a variance and uses it as the standard deviation.
    """

    name: ClassVar[str] = "gaussian_noise"

    probability: Probability = 0.1
    sigma: Range = (0.0, 0.1)

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        sigma = np.float32(random.uniform(*self.sigma))
        noisy: FloatArray = image + sigma * random.standard_normal(image.shape, np.float32)
        return noisy
