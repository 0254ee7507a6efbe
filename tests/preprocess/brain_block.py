"""A case small enough to check by hand, for tests of what is made of scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.volume import ScanGrid, Volume

Array = npt.NDArray[Any]
SHAPE = (6, 7, 5)
RAS = np.eye(4)


def volume(data: Array, affine: Array = RAS) -> Volume:
    i, j, k = data.shape
    return Volume(data, ScanGrid((i, j, k), affine, 1, 1))


def scan(seed: int = 0) -> Array:
    """A skull-stripped block of brain, negative values included, with background all around."""
    data = np.zeros(SHAPE, np.float32)
    data[1:5, 2:6, 1:4] = np.random.default_rng(seed).normal(3, 10, (4, 4, 3)).astype(np.float32)
    return data


def recipe(**keys: Any) -> SliceSchema:
    return SliceSchema(**{"size": SHAPE, **keys})
