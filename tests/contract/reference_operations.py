"""Every operation once more, in plain NumPy and SciPy on one image (..., C) in float64: slow, and nobody's backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage, special

from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights

Array = np.ndarray
Arrays = dict[str, Array]


def conv(op: ops.Conv, x: Array, weights: Arrays) -> Array:
    """One tap at a time: the input from that tap on, every `stride` voxels, times the tap's matrix."""
    x = np.pad(x, (*op.padding, (0, 0)))
    reach = [rate * (size - 1) for rate, size in zip(op.dilation, op.kernel, strict=True)]
    total: Any = weights.get("bias", 0.0)
    for tap in itertools.product(*map(range, op.kernel)):
        window = tuple(
            slice(rate * place, rate * place + extent - far, step)
            for rate, place, extent, far, step in zip(op.dilation, tap, x.shape[:-1], reach, op.stride, strict=True)
        )
        total = total + x[window] @ weights["kernel"][tap]
    return np.asarray(total)


def conv_transpose(op: ops.ConvTranspose, x: Array, weights: Arrays) -> Array:
    """Each voxel adds its own kernel's worth to the result."""
    sizes = [(n - 1) * s + k for n, s, k in zip(x.shape[:-1], op.stride, op.kernel, strict=True)]
    total = np.zeros((*sizes, op.filters))
    for voxel in np.ndindex(*x.shape[:-1]):
        window = tuple(slice(v * s, v * s + k) for v, s, k in zip(voxel, op.stride, op.kernel, strict=True))
        total[window] += np.einsum("i,...io->...o", x[voxel], weights["kernel"])
    return np.asarray(total + weights.get("bias", 0.0))


def window_starts(extent: int, size: int, stride: int, padding: tuple[int, int], *, ceil: bool) -> list[int]:
    """Where windows begin on the padded axis: all that fit, and with `ceil` one more for a rest.

    That one must begin before the padding at the end, as torch.nn.MaxPool2d documents.
    """
    before, after = padding
    fitting = list(range(0, before + extent + after - size + 1, stride))
    rest = before + extent + after - size - fitting[-1]
    following = fitting[-1] + stride
    return [*fitting, following] if ceil and rest and following < before + extent else fitting


def pool(op: ops.MaxPool | ops.AveragePool, x: Array, weights: Arrays) -> Array:
    """Window by window; a slice past the end is cut short, so what hangs over does not count."""
    mean = isinstance(op, ops.AveragePool)
    padded = np.pad(x, (*op.padding, (0, 0)), constant_values=0.0 if mean else -np.inf)
    starts = [
        window_starts(*axis, ceil=op.ceil) for axis in zip(x.shape[:-1], op.size, op.stride, op.padding, strict=True)
    ]
    axes = tuple(range(len(op.size)))
    result = np.empty((*map(len, starts), x.shape[-1]))
    for place in np.ndindex(*result.shape[:-1]):
        window = padded[tuple(slice(s[p], s[p] + k) for s, p, k in zip(starts, place, op.size, strict=True))]
        result[place] = window.mean(axes) if mean else window.max(axes)
    return result


def resize(op: ops.Resize, x: Array, weights: Arrays) -> Array:
    """SciPy's linear interpolation at the places that PyTorch documents, or the nearest voxel's own value."""
    places = []
    for n, m in zip(x.shape[:-1], op.size, strict=True):
        if op.method == "nearest":
            places.append(np.array([int(np.floor(i * n / m + 1e-9)) for i in range(m)], float))
        elif op.align_corners:
            places.append(np.linspace(0, n - 1, m))
        else:
            places.append((np.arange(m) + 0.5) * n / m - 0.5)
    grid = np.meshgrid(*places, indexing="ij")
    maps = [ndimage.map_coordinates(x[..., c], grid, order=1, mode="nearest") for c in range(x.shape[-1])]
    return np.stack(maps, axis=-1)


def instance_norm(op: ops.InstanceNorm, x: Array, weights: Arrays) -> Array:
    maps = [(x[..., c] - x[..., c].mean()) / np.sqrt(x[..., c].var() + op.epsilon) for c in range(x.shape[-1])]
    return np.stack(maps, axis=-1) * weights["gamma"] + weights["beta"]


def batch_norm(op: ops.BatchNorm, x: Array, weights: Arrays) -> Array:
    scaled = (x - weights["mean"]) / np.sqrt(weights["variance"] + op.epsilon)
    return np.asarray(scaled * weights["gamma"] + weights["beta"])


def upsample(op: ops.Upsample, x: Array, weights: Arrays) -> Array:
    return np.asarray(np.kron(x, np.ones((*op.factor, 1))))


def global_average(op: ops.GlobalAverage, x: Array, weights: Arrays) -> Array:
    means = np.array([x[..., c].mean() for c in range(x.shape[-1])])
    return means.reshape((1,) * (x.ndim - 1) + (-1,)) if op.keep_axes else means


def _leaky(x: Array, slope: Any) -> Array:
    return np.where(x > 0, x, slope * x)


_ONE_INPUT: dict[type[ops.Op], Callable[[Any, Array, Arrays], Array]] = {
    ops.Conv: conv,
    ops.ConvTranspose: conv_transpose,
    ops.Dense: lambda op, x, weights: np.asarray(x @ weights["kernel"] + weights.get("bias", 0.0)),
    ops.BatchNorm: batch_norm,
    ops.InstanceNorm: instance_norm,
    ops.Relu: lambda op, x, weights: _leaky(x, 0.0),
    ops.LeakyRelu: lambda op, x, weights: _leaky(x, op.slope),
    ops.PRelu: lambda op, x, weights: _leaky(x, weights["alpha"]),
    ops.Sigmoid: lambda op, x, weights: special.expit(x),
    ops.Softmax: lambda op, x, weights: special.softmax(x, axis=-1),
    ops.Dropout: lambda op, x, weights: x,
    ops.MaxPool: pool,
    ops.AveragePool: pool,
    ops.GlobalAverage: global_average,
    ops.Upsample: upsample,
    ops.Resize: resize,
    ops.Flatten: lambda op, x, weights: x.ravel(),
}

_SEVERAL_INPUTS: dict[type[ops.Op], Callable[[list[Array]], Array]] = {
    ops.Concat: lambda inputs: np.concatenate(inputs, axis=-1),
    ops.Add: lambda inputs: np.asarray(sum(inputs)),
    ops.Maximum: lambda inputs: np.max(inputs, axis=0),
    ops.Multiply: lambda inputs: np.asarray(np.prod(np.array(np.broadcast_arrays(*inputs)), axis=0)),
}


def forward(graph: Graph, weights: Weights, image: Array) -> dict[str, Array]:
    """Every node's result in inference mode, by name."""
    values: dict[str, Array] = {}
    for node in graph:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.op, ops.Input):
            values[node.name] = image.astype(float)
        elif type(node.op) in _SEVERAL_INPUTS:
            values[node.name] = _SEVERAL_INPUTS[type(node.op)](inputs)
        else:
            own = {name: value.astype(float) for (owner, name), value in weights.items() if owner == node.name}
            values[node.name] = _ONE_INPUT[type(node.op)](node.op, inputs[0], own)
    return values
