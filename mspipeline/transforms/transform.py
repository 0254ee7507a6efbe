"""What a transform is: a change of an image and its labels that is drawn anew for each image of a batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from mspipeline.config import Strict

FloatArray = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]


def _ordered(numbers: tuple[float, float]) -> tuple[float, float]:
    low, high = numbers
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"expected two finite numbers from 0 on, the smaller one first; received: {low:g}, {high:g}")
    return numbers


def _positive(numbers: tuple[float, float]) -> tuple[float, float]:
    if not numbers[0] > 0:
        raise ValueError(f"expected numbers above 0; received: {numbers[0]:g}, {numbers[1]:g}")
    return numbers


Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""(low, high), 0 <= low <= high."""
Factors = Annotated[Range, AfterValidator(_positive)]
"""(low, high), 0 < low <= high."""


class ImageTransform(Strict, ABC):
    """A transform with its settings, the fields of its class. name: in configurations.

    probability: with which an image is changed at all.
    """

    name: ClassVar[str]

    probability: Probability = 1.0

    def __call__(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        """Image and labels, changed or as they are. The arguments are left as they are; results may be views of them.

        image: (*spatial, C) float32. labels: (*spatial) or (*spatial, 1). Shapes and types stay.
        """
        if random.random() >= self.probability:
            return image, labels
        return self._apply(image, labels, random)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raise ValueError where the settings do not fit images of this shape (*spatial, C)."""

    @abstractmethod
    def _apply(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]: ...


class SpatialTransform(ImageTransform):
    """Moves voxels: image and labels in the same way."""

    @abstractmethod
    def move(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        """Both, moved; voxels of the labels keep their values, whatever these are."""

    def _apply(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        return self.move(image, labels, random)


class IntensityTransform(ImageTransform):
    """Changes what is measured and not where: labels stay as they are."""

    @abstractmethod
    def change(self, image: FloatArray, random: np.random.Generator) -> FloatArray:
        """The image with other intensities."""

    def _apply(self, image: FloatArray, labels: Labels, random: np.random.Generator) -> tuple[FloatArray, Labels]:
        return self.change(image, random), labels


def check_axes(axes: tuple[int, ...], image_shape: tuple[int, ...]) -> None:
    """Raise ValueError where these are not different spatial axes of images of this shape."""
    spatial = len(image_shape) - 1
    if not axes or len(set(axes)) != len(axes) or not all(0 <= axis < spatial for axis in axes):
        last = f"0 to {spatial - 1}"
        raise ValueError(f"axes: expected different ones of an image's spatial axes, {last}; received: {list(axes)}")


def draw_factors(bounds: tuple[float, float], channels: int, random: np.random.Generator) -> FloatArray:
    """(channels,) numbers: below 1 or above it with equal chance, uniform there, as nnU-Net draws them."""
    low, high = bounds
    below = random.random(channels) < 0.5
    share = random.random(channels)
    lower, upper = low + share * (min(1.0, high) - low), max(low, 1.0) + share * (high - max(low, 1.0))
    factors: FloatArray = np.where((below & (low < 1)) | (high < 1), lower, upper).astype(np.float32)
    return factors


def spatial_axes(image: FloatArray) -> tuple[int, ...]:
    """All axes but that of the channels."""
    return tuple(range(image.ndim - 1))
