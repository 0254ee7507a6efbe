"""Clipping of a step's gradient by its norm over all weights (Pascanu et al. 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mspipeline.arrays import Arrays


def clipped_to_norm(arrays: Arrays, gradients: Sequence[Any], norm: float | None) -> list[Any]:
    """The gradients, shortened together so that the Euclidean norm over all of them is at most this; None: as they are.

    >>> import numpy as np
    >>> from mspipeline.arrays import NUMPY
    >>> clipped_to_norm(NUMPY, [np.float32([3]), np.float32([4])], 1.0)[1]
    array([0.8], dtype=float32)
    """
    if norm is None:
        return list(gradients)
    length = arrays.sqrt(sum(arrays.sum(arrays.square(each)) for each in gradients))
    scale = norm / arrays.maximum(length, norm)
    return [each * scale for each in gradients]
