"""Operations as Keras 3 layers, for any engine below it: the table `REALISE` has one function per operation.

Only `keras.layers` and `keras.ops` are used here. Layers bear the nodes' names, and a helping one `NODE.its_part`:
left to itself Keras names it by its class, which a node may be named, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.network import ops
from mspipeline.network.blocks import same_padding
from mspipeline.network.graph import Graph
from mspipeline.network.ops import tiling

WEIGHT_NAMES = {"moving_mean": "mean", "moving_variance": "variance"}
"""Keras' names of weights where they are not ours."""

TO_BE_SET = "zeros"
"""How kernels begin: `Backend.set_weights` gives them their values. On JAX each shape of a random one is a program to
compile, a second or two."""

Lines = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Toolkit:
    """What this module uses of Keras, where an engine has layers of its own."""

    layers: Any
    ops: Any
    Input: Any
    Model: Any


def with_own_layers(keras: Any, own: Mapping[str, Any]) -> Toolkit:
    """Keras with the layers of `own`, by class name, in place of its own."""
    layers = SimpleNamespace(**{**vars(keras.layers), **own})
    return Toolkit(layers=layers, ops=keras.ops, Input=keras.Input, Model=keras.Model)


def other_layout(graph: Graph, key: tuple[str, str], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A weight from our layout to Keras' or back: it keeps a transposed convolution's kernel as (k..., out, in)."""
    node, name = key
    return values.swapaxes(-1, -2) if name == "kernel" and isinstance(graph[node].op, ops.ConvTranspose) else values


def resize_lines(before: int, op: ops.Resize, after: int) -> Lines:
    """For each of `after` voxels along an axis of `before`: the two source voxels and the second one's share."""
    place = np.arange(after)
    if op.method == "nearest":
        source = place * before // after
        return source, source, np.zeros(after, np.float32)
    if op.align_corners:
        exact = place * ((before - 1) / max(after - 1, 1))
    else:
        exact = np.clip((place + 0.5) * before / after - 0.5, 0, before - 1)
    low = np.floor(exact).astype(np.int64)
    return low, np.minimum(low + 1, before - 1), (exact - low).astype(np.float32)


@cache
def _own_layers(keras: Any) -> SimpleNamespace:
    """The layers that Keras lacks, or has with weights of another shape; classes need the module, so they are here."""

    class InstanceNorm(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, epsilon: float, name: str) -> None:
            super().__init__(name=name)
            self.epsilon = epsilon

        def build(self, shape: ops.Shape) -> None:
            self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
            self.beta = self.add_weight(shape=shape[-1:], initializer="zeros", name="beta")

        def call(self, x: Any) -> Any:
            axes = tuple(range(1, len(x.shape) - 1))
            mean, variance = keras.ops.moments(x, axes, keepdims=True)
            scale = self.gamma * keras.ops.rsqrt(variance + self.epsilon)
            return x * scale + (self.beta - mean * scale)

    class PRelu(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, alpha_shape: ops.Shape, name: str) -> None:
            super().__init__(name=name)
            self.alpha = self.add_weight(shape=alpha_shape, initializer="zeros", name="alpha")

        def call(self, x: Any) -> Any:
            return keras.ops.relu(x) - self.alpha * keras.ops.relu(-x)

    class Resize(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, op: ops.Resize, shape: ops.Shape, name: str) -> None:
            super().__init__(name=name)
            self.lines = [resize_lines(n, op, m) for n, m in zip(shape[:-1], op.size, strict=True)]

        def call(self, x: Any) -> Any:
            for axis, (low, high, share) in enumerate(self.lines, start=1):
                first = keras.ops.take(x, low, axis=axis)
                if not share.any():
                    x = first
                    continue
                weight = keras.ops.convert_to_tensor(share.reshape(-1, *(1,) * (len(x.shape) - 1 - axis)))
                x = first * (1 - weight) + keras.ops.take(x, high, axis=axis) * weight
            return x

    class MaskedDropout(keras.layers.Layer):  # type: ignore[misc]
        """A product with `mask`, which whoever takes a training step sets before; see `backends.dropout_masks`."""

        mask: Any = None

        def __init__(self, rate: float, name: str) -> None:
            super().__init__(name=name)
            self.rate = rate

        def call(self, x: Any, training: bool = False) -> Any:
            return x * self.mask if training and self.rate > 0 else x

    return SimpleNamespace(InstanceNorm=InstanceNorm, PRelu=PRelu, Resize=Resize, MaskedDropout=MaskedDropout)


def _ranked(keras: Any, stem: str, rank: int) -> Any:
    """The layer class of this many spatial axes."""
    return getattr(keras.layers, f"{stem}{rank}D")


def _conv(keras: Any, name: str, op: ops.Conv, inputs: list[Any]) -> Any:
    rank, x, padding, stride = len(op.kernel), inputs[0], "valid", op.stride
    if op.padding == same_padding(op.kernel, op.dilation) and set(stride) == {1}:
        padding = "same"  # at stride 1 every engine puts what is odd after
    elif any(before or after for before, after in op.padding):
        x = _ranked(keras, "ZeroPadding", rank)(op.padding, name=f"{name}.padding")(x)
    skips = max(stride) > 1 and max(op.dilation) > 1  # Keras refuses both in one layer
    layer = _ranked(keras, "Conv", rank)(
        op.filters,
        op.kernel,
        1 if skips else stride,
        padding,
        dilation_rate=op.dilation,
        use_bias=op.bias,
        kernel_initializer=TO_BE_SET,
        name=name,
    )
    every = (slice(None), *(slice(None, None, each) for each in stride))
    return keras.layers.Lambda(lambda values: values[every], name=f"{name}.stride")(layer(x)) if skips else layer(x)


def _conv_transpose(keras: Any, name: str, op: ops.ConvTranspose, inputs: list[Any]) -> Any:
    layer = getattr(keras.layers, f"Conv{len(op.kernel)}DTranspose")(
        op.filters, op.kernel, op.stride, "valid", use_bias=op.bias, kernel_initializer=TO_BE_SET, name=name
    )
    return layer(inputs[0])


def _dense(keras: Any, name: str, op: ops.Dense, inputs: list[Any]) -> Any:
    layer = keras.layers.Dense(op.units, use_bias=op.bias, kernel_initializer=TO_BE_SET, name=name)
    return layer(inputs[0])


def _batch_norm(keras: Any, name: str, op: ops.BatchNorm, inputs: list[Any]) -> Any:
    return keras.layers.BatchNormalization(momentum=op.momentum, epsilon=op.epsilon, name=name)(inputs[0])


def _instance_norm(keras: Any, name: str, op: ops.InstanceNorm, inputs: list[Any]) -> Any:
    layer = getattr(keras.layers, "InstanceNorm", None) or _own_layers(keras).InstanceNorm  # an engine may have its own
    return layer(op.epsilon, name)(inputs[0])


def _leaky_relu(keras: Any, name: str, op: ops.LeakyRelu, inputs: list[Any]) -> Any:
    return keras.layers.LeakyReLU(negative_slope=op.slope, name=name)(inputs[0])


def _prelu(keras: Any, name: str, op: ops.PRelu, inputs: list[Any]) -> Any:
    alpha = op.weights([inputs[0].shape[1:]])["alpha"]
    return _own_layers(keras).PRelu(alpha.shape, name)(inputs[0])


def _dropout(keras: Any, name: str, op: ops.Dropout, inputs: list[Any]) -> Any:
    return _own_layers(keras).MaskedDropout(op.rate, name)(inputs[0])


def _padded(keras: Any, name: str, op: ops.MaxPool | ops.AveragePool, x: Any, value: float) -> Any:
    """The input with its padding and what the last windows hang over by, filled with `value`."""
    overhang = op.overhang(x.shape[1:])
    widths = [(before, after + more) for (before, after), more in zip(op.padding, overhang, strict=True)]
    if not any(before or after for before, after in widths):
        return x
    pads = [(0, 0), *widths, (0, 0)]
    return keras.layers.Lambda(
        lambda values: keras.ops.pad(values, pads, constant_values=value), name=f"{name}.padding"
    )(x)


def _max_pool(keras: Any, name: str, op: ops.MaxPool, inputs: list[Any]) -> Any:
    x = _padded(keras, name, op, inputs[0], -np.inf)
    return _ranked(keras, "MaxPooling", len(op.size))(op.size, op.stride, name=name)(x)


def _average_pool(keras: Any, name: str, op: ops.AveragePool, inputs: list[Any]) -> Any:
    overhang = op.overhang(inputs[0].shape[1:])
    x = _padded(keras, name, op, inputs[0], 0.0)
    mean = _ranked(keras, "AveragePooling", len(op.size))(op.size, op.stride, name=name)(x)
    if not any(overhang):
        return mean
    counted = np.ones((*mean.shape[1:-1], 1), np.float32)
    for axis, (size, more) in enumerate(zip(op.size, overhang, strict=True)):
        np.moveaxis(counted, axis, 0)[-1] *= (size - more) / size  # only the last window can hang over

    def corrected(values: Any) -> Any:
        return values / keras.ops.convert_to_tensor(counted)

    return keras.layers.Lambda(corrected, name=f"{name}.counted")(mean)


def _global_average(keras: Any, name: str, op: ops.GlobalAverage, inputs: list[Any]) -> Any:
    layer = _ranked(keras, "GlobalAveragePooling", len(inputs[0].shape) - 2)
    return layer(keepdims=op.keep_axes, name=name)(inputs[0])


def _upsample(keras: Any, name: str, op: ops.Upsample, inputs: list[Any]) -> Any:
    return _ranked(keras, "UpSampling", len(op.factor))(op.factor, name=name)(inputs[0])


def _resize(keras: Any, name: str, op: ops.Resize, inputs: list[Any]) -> Any:
    if op.method == "bilinear" and not op.align_corners and len(op.size) == 2:

        def engines_own(values: Any) -> Any:  # five times as fast in training as two gathers (TensorFlow, 2 CPU cores)
            return keras.ops.image.resize(values, op.size, "bilinear", antialias=False, data_format="channels_last")

        return keras.layers.Lambda(engines_own, name=name)(inputs[0])
    return _own_layers(keras).Resize(op, inputs[0].shape[1:], name)(inputs[0])


def _phases(keras: Any, name: str, op: tiling.SplitPhases | tiling.JoinPhases, inputs: list[Any]) -> Any:
    """Each spatial axis as (voxel, phase) or, to join, the phases in front; then transposed into the other's order."""
    rank, (*spatial, channels), split = len(op.stride), inputs[0].shape[1:], isinstance(op, tiling.SplitPhases)
    voxels, phases = [1 + 2 * axis for axis in range(rank)], [2 + 2 * axis for axis in range(rank)]
    if split:
        pairs = [each for n, stride in zip(spatial, op.stride, strict=True) for each in (n // stride, stride)]
        order, after = [0, *phases, *voxels, 2 * rank + 1], [n // s for n, s in zip(spatial, op.stride, strict=True)]
    else:
        pairs = [*op.stride, *spatial]
        order = [0, *(each for axis in range(rank) for each in (1 + rank + axis, 1 + axis)), 2 * rank + 1]
        after = [n * s for n, s in zip(spatial, op.stride, strict=True)]

    def moved(values: Any) -> Any:
        values = keras.ops.transpose(keras.ops.reshape(values, (-1, *pairs, channels)), order)
        return keras.ops.reshape(values, (-1, *after, channels))

    # Its shape is given: left to find it, Keras tries a batch that may not be divisible.
    return keras.layers.Lambda(moved, output_shape=(*after, channels), name=name)(inputs[0])


def _crop(keras: Any, name: str, op: tiling.Crop, inputs: list[Any]) -> Any:
    box = (slice(None), *(slice(start, start + size) for start, size in zip(op.start, op.size, strict=True)))
    return keras.layers.Lambda(lambda values: values[box], name=name)(inputs[0])


REALISE: dict[type[ops.Op], Callable[[Any, str, Any, list[Any]], Any]] = {
    ops.Input: lambda keras, name, op, inputs: keras.Input(op.shape, name=name),
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Dense: _dense,
    ops.BatchNorm: _batch_norm,
    ops.InstanceNorm: _instance_norm,
    ops.Relu: lambda keras, name, op, inputs: keras.layers.ReLU(name=name)(inputs[0]),
    ops.LeakyRelu: _leaky_relu,
    ops.PRelu: _prelu,
    ops.Sigmoid: lambda keras, name, op, inputs: keras.layers.Activation("sigmoid", name=name)(inputs[0]),
    ops.Softmax: lambda keras, name, op, inputs: keras.layers.Softmax(name=name)(inputs[0]),
    ops.Dropout: _dropout,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.GlobalAverage: _global_average,
    ops.Upsample: _upsample,
    ops.Resize: _resize,
    ops.Concat: lambda keras, name, op, inputs: keras.layers.Concatenate(name=name)(inputs),
    ops.Add: lambda keras, name, op, inputs: keras.layers.Add(name=name)(inputs),
    ops.Maximum: lambda keras, name, op, inputs: keras.layers.Maximum(name=name)(inputs),
    ops.Multiply: lambda keras, name, op, inputs: keras.layers.Multiply(name=name)(inputs),
    ops.Flatten: lambda keras, name, op, inputs: keras.layers.Flatten(name=name)(inputs[0]),
    tiling.Crop: _crop,
    tiling.Subtract: lambda keras, name, op, inputs: keras.layers.Subtract(name=name)(inputs),
    tiling.SplitPhases: _phases,
    tiling.JoinPhases: _phases,
}


def realise(keras: Any, graph: Graph) -> Any:
    """The functional Keras model of a graph; layers bear the nodes' names."""
    tensors: dict[str, Any] = {}
    for node in graph:
        inputs = [tensors[name] for name in node.inputs]
        tensors[node.name] = REALISE[type(node.op)](keras, node.name, node.op, inputs)
    inputs = [tensors[node.name] for node in graph.inputs]
    outputs = [tensors[name] for name in graph.outputs]
    return keras.Model(*(given[0] if len(given) == 1 else given for given in (inputs, outputs)))
