"""Gamma: each channel bent by a power within its own range, its mean and standard deviation kept."""

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

EPSILON = 1e-7
"""Keeps a channel of one value where it is (that of nnU-Net)."""


class Gamma(IntensityTransform):
    """g(x) = l + r ((x - l) / r)^gamma, l a channel's least value and r its range, which negative values do not harm.

    Then it is brought back to the channel's mean and standard deviation. gamma: range of the power, drawn for each
    channel: below or above 1 with equal chance, uniform there. invert: -g(-x) instead, which bends the bright end.
    As nnU-Net (Isensee et al. 2021), which does it plainly with probability 0.3 and inverted with 0.1.
    """

    name: ClassVar[str] = "gamma"

    probability: Probability = 0.3
    gamma: Factors = (0.7, 1.5)
    invert: bool = False

    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        axes = spatial_axes(image)
        powers = draw_factors(self.gamma, image.shape[-1], random)
        given = -image if self.invert else image
        least = given.min(axis=axes)
        extent = given.max(axis=axes) - least
        bent = ((given - least) / (extent + np.float32(EPSILON))) ** powers * extent + least
        kept = _with_statistics_of(given, bent, axes)
        return -kept if self.invert else kept


def _with_statistics_of(given: FloatArray, bent: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    """`bent` with the mean and standard deviation that each channel of `given` has."""
    scale = given.std(axis=axes, dtype=np.float64) / (bent.std(axis=axes, dtype=np.float64) + 1e-8)
    before, after = (each.mean(axis=axes, dtype=np.float64).astype(np.float32) for each in (given, bent))
    kept: FloatArray = (bent - after) * scale.astype(np.float32) + before
    return kept
