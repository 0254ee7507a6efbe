"""The transforms by name. Packages add to them by the entry point group `mspipeline.transforms`.

What they add is a subclass of `SpatialTransform` or `IntensityTransform`.
"""

from __future__ import annotations

from mspipeline.plugins import Registry, subclass_of
from mspipeline.transforms.brightness import Brightness
from mspipeline.transforms.contrast import Contrast
from mspipeline.transforms.flip import Flip
from mspipeline.transforms.gamma import Gamma
from mspipeline.transforms.gaussian_noise import GaussianNoise
from mspipeline.transforms.rotate90 import Rotate90
from mspipeline.transforms.transform import ImageTransform

_BUILT_IN: dict[str, type[ImageTransform]] = {
    each.name: each for each in (Flip, Rotate90, GaussianNoise, Brightness, Contrast, Gamma)
}
TRANSFORMS: Registry[type[ImageTransform]] = Registry(
    "transform", "mspipeline.transforms", _BUILT_IN, subclass_of(ImageTransform)
)
"""The transforms by name."""
