"""Clipping of a step's gradient by its norm over all weights (Pascanu et al. 2013)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def clipped_to_norm(gradients: Mapping[str, FloatArray], norm: float) -> Mapping[str, FloatArray]:
    """The gradients, shortened together so that the Euclidean norm over all of them is at most this.

    >>> clipped_to_norm({"a": np.float32([3]), "b": np.float32([4])}, 1.0)["b"]
    array([0.8], dtype=float32)
    """
    length = math.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in gradients.values()))
    if length <= norm:
        return gradients
    return {name: each * np.float32(norm / length) for name, each in gradients.items()}
