"""The Keras layer that the TensorFlow engine replaces: 3-D max pooling.

TensorFlow's own, on a CPU, hands the whole gradient to each of several equal largest voxels, and behind a ReLU many are
equal; its 2-D pooling, and the other engines', hand it to one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mspipeline.backends.keras.layers import Toolkit, with_own_layers


@cache
def toolkit(keras: Any) -> Toolkit:
    """Keras as `layers` uses it, with this layer in place of its own."""

    class MaxPooling3D(keras.layers.MaxPooling3D):
        def call(self, x: Any) -> Any:
            depth, height, width, channels = x.shape[1:]
            slices = keras.ops.reshape(x, (-1, height, width, channels))  # (N,D,H,W,C) -> (N*D,H,W,C)
            slices = keras.ops.max_pool(slices, self.pool_size[1:], self.strides[1:])
            height, width = slices.shape[1:3]
            lines = keras.ops.reshape(slices, (-1, depth, height * width, channels))  # -> (N,D,H*W,C)
            lines = keras.ops.max_pool(lines, (self.pool_size[0], 1), (self.strides[0], 1))
            return keras.ops.reshape(lines, (-1, lines.shape[1], height, width, channels))

    return with_own_layers(keras, {"MaxPooling3D": MaxPooling3D})
