"""Arrays: the few functions that losses and update rules are written in, so that each stands once for every engine.

A Keras engine gives `keras.ops`, PyTorch's steps a namespace of their own, and `NUMPY` is NumPy.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np


class Arrays(Protocol):
    """As `keras.ops` has them. axis: None takes all values."""

    def square(self, x: Any, /) -> Any: ...
    def sqrt(self, x: Any, /) -> Any: ...
    def exp(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def maximum(self, one: Any, other: Any, /) -> Any: ...
    def clip(self, x: Any, least: float, most: float, /) -> Any: ...
    def sum(self, x: Any, axis: Any = None, /) -> Any: ...
    def mean(self, x: Any, axis: Any = None, /) -> Any: ...
    def sigmoid(self, x: Any, /) -> Any: ...
    def softplus(self, x: Any, /) -> Any:
        """log(1 + exp(x))."""

    def log_softmax(self, x: Any, /) -> Any:
        """Over the last axis."""


class NumPyArrays:
    """NumPy's. A sum or mean over all values is a Python float, as roots of one are: so float32 arrays stay float32."""

    def square(self, x: Any, /) -> Any:
        return np.square(x)

    def sqrt(self, x: Any, /) -> Any:
        return math.sqrt(x) if isinstance(x, float) else np.sqrt(x)

    def exp(self, x: Any, /) -> Any:
        return np.exp(x)

    def log(self, x: Any, /) -> Any:
        return np.log(x)

    def maximum(self, one: Any, other: Any, /) -> Any:
        return max(one, other) if isinstance(one, float) else np.maximum(one, other)

    def clip(self, x: Any, least: float, most: float, /) -> Any:
        return np.clip(x, least, most)

    def sum(self, x: Any, axis: Any = None, /) -> Any:
        return float(np.sum(x)) if axis is None else np.sum(x, axis)

    def mean(self, x: Any, axis: Any = None, /) -> Any:
        return float(np.mean(x)) if axis is None else np.mean(x, axis)

    def sigmoid(self, x: Any, /) -> Any:
        """By the power that cannot overflow."""
        power = np.exp(-np.abs(x))
        return np.where(x >= 0, np.ones_like(power), power) / (1 + power)

    def softplus(self, x: Any, /) -> Any:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def log_softmax(self, x: Any, /) -> Any:
        below = x - np.max(x, axis=-1, keepdims=True)
        return below - np.log(np.sum(np.exp(below), axis=-1, keepdims=True))


NUMPY = NumPyArrays()
