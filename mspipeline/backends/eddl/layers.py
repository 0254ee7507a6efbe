"""Operations as EDDL layers, channels first: the table `REALISE` has one function per operation.

`refusal` says why a node has no form in EDDL 1.1b on a CPU that is exactly ours, without loading the library. What it
lacks and other layers of its own give exactly is put together from those: padding of any widths, a third spatial
axis in batch normalisation, the bias of a 3-D convolution, products of unequal shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mspipeline.backends.eddl.network import Realisation
from mspipeline.backends.eddl.races import copies_apart, upsampling_is_safe
from mspipeline.network import ops
from mspipeline.network.graph import Graph, Node


def refusal(graph: Graph, node: Node) -> str | None:
    """Why EDDL cannot realise this node, or None where it can."""
    op = node.op
    if type(op) not in REALISE:
        return "it has no such layer"
    if isinstance(op, ops.Conv) and max(op.dilation) > 1:
        return "its convolution has no dilation on a CPU"
    if isinstance(op, ops.ConvTranspose) and op.kernel != op.stride:
        return "it has no transposed convolution on a CPU, and other layers give one only where windows do not overlap"
    if isinstance(op, ops.AveragePool) and any(op.overhang(graph.input_shapes(node)[0])):
        return "its average counts what hangs over the end of the image"
    if isinstance(op, ops.Resize) and op.method == "bilinear":
        return "it resizes by the nearest neighbour alone"
    return None


def realise(eddl: Any, graph: Graph, threads: int) -> Realisation:
    """The layers of a graph that `refusal` lets pass, to be trained with so many threads if none is `racing`."""
    made = Realisation(eddl, graph, threads)
    for node in graph:
        inputs = [made.tensors[name] for name in node.inputs]
        made.tensors[node.name] = REALISE[type(node.op)](made, node, node.op, inputs)
    return made


def _sizes(shape: ops.Shape) -> list[int]:
    """A shape, channels last, as EDDL has it."""
    return [shape[-1], *shape[:-1]]


def _source(made: Realisation, node: Node) -> ops.Shape:
    return made.graph.input_shapes(node)[0]


def _input(made: Realisation, node: Node, op: ops.Input, inputs: list[Any]) -> Any:
    return made.eddl.Input(_sizes(op.shape), name=node.name)


def _padded(made: Realisation, x: Any, shape: ops.Shape, padding: ops.Padding, value: float) -> Any:
    """`x`, of `shape`, with so many voxels of this value around it. EDDL's own padding knows rows and columns alone."""
    if not any(before or after for before, after in padding):
        return x
    *deep, (top, bottom), (left, right) = padding
    if not deep:
        return made.eddl.Pad(x, [top, right, bottom, left], value)
    (front, back), (depth, height, width, channels) = deep[0], shape
    rows, columns = height + top + bottom, width + left + right
    x = made.eddl.Reshape(x, [channels * depth, height, width])
    x = made.eddl.Pad(x, [top, right, bottom, left], value)
    x = made.eddl.Reshape(x, [channels, depth, rows * columns])
    x = made.eddl.Pad(x, [front, 0, back, 0], value)
    return made.eddl.Reshape(x, [channels, depth + front + back, rows, columns])


def _pads_itself(shape: ops.Shape, op: ops.Conv) -> bool:
    """Whether the padding is what EDDL means by "same"; it refuses one that differs before and after."""
    wanted = []
    for extent, kernel, stride in zip(shape[:-1], op.kernel, op.stride, strict=True):
        total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
        if total % 2:
            return False
        wanted.append((total // 2, total // 2))
    return op.padding == tuple(wanted)


def _conv(made: Realisation, node: Node, op: ops.Conv, inputs: list[Any]) -> Any:
    rank, shape, x, mode = len(op.kernel), _source(made, node), inputs[0], "same"
    if not _pads_itself(shape, op):
        x, mode = _padded(made, x, shape, op.padding, 0.0), "valid"
    flat = rank == 2
    layer = (made.eddl.Conv2D if flat else made.eddl.Conv3D)(
        x, op.filters, list(op.kernel), list(op.stride), mode, op.bias and flat, name=node.name
    )
    _keep_kernel(made, node, layer, (op.filters, shape[-1], *op.kernel))
    if op.bias and flat:
        made.keep(node, "bias", layer, 1, (op.filters,), (0,))
    # On a CPU the library ignores the bias of a 3-D convolution.
    return layer if flat or not op.bias else _biased(made, node, layer, op.filters)


def _keep_kernel(made: Realisation, node: Node, layer: Any, shape: Sequence[int]) -> None:
    """A kernel that the library holds as (out, in, k...)."""
    made.keep(node, "kernel", layer, 0, shape, (*range(2, len(shape)), 1, 0))


def _biased(made: Realisation, node: Node, x: Any, channels: int) -> Any:
    return made.eddl.Add([x, _spread(made, made.learned(node, "bias", [channels], [0]), node.shape)])


def _spread(made: Realisation, x: Any, shape: ops.Shape) -> Any:
    """One value a channel, repeated over the voxels of `shape`; the library adds and multiplies equal shapes alone."""
    x = made.eddl.Repeat(made.eddl.Reshape(x, [shape[-1], 1]), math.prod(shape[:-1]), 1)
    return made.eddl.Reshape(x, _sizes(shape))


def _pointwise(made: Realisation, node: Node, x: Any, shape: ops.Shape, filters: int, *, bias: bool) -> Any:
    """A matrix product over channels as a 1x1 convolution: (voxels, in) -> [filters, voxels, 1]."""
    rows = made.eddl.Reshape(x, [shape[-1], math.prod(shape[:-1]), 1])
    return made.eddl.Conv2D(rows, filters, [1, 1], [1, 1], "valid", bias, name=node.name)


def _conv_transpose(made: Realisation, node: Node, op: ops.ConvTranspose, inputs: list[Any]) -> Any:
    """Where windows do not overlap: every voxel's own block of the result, then all blocks side by side."""
    shape, rank = _source(made, node), len(op.kernel)
    layer = _pointwise(made, node, inputs[0], shape, op.filters * math.prod(op.kernel), bias=False)
    made.keep(node, "kernel", layer, 0, (op.filters, *op.kernel, shape[-1]), (*range(1, rank + 1), rank + 1, 0))
    x = made.eddl.Reshape(layer, [op.filters, *op.kernel, *shape[:-1]])
    pairs = [axis for each in range(rank) for axis in (rank + 1 + each, 1 + each)]
    x = made.eddl.Reshape(made.eddl.Permute(x, [0, *pairs]), _sizes(node.shape))
    return _biased(made, node, x, op.filters) if op.bias else x


def _dense(made: Realisation, node: Node, op: ops.Dense, inputs: list[Any]) -> Any:
    shape = _source(made, node)
    if len(shape) == 1:
        layer = made.eddl.Dense(inputs[0], op.units, op.bias, name=node.name)
        made.keep(node, "kernel", layer, 0, (shape[-1], op.units), (0, 1))
        result = layer
    else:
        layer = _pointwise(made, node, inputs[0], shape, op.units, bias=op.bias)
        made.keep(node, "kernel", layer, 0, (op.units, shape[-1]), (1, 0))
        result = made.eddl.Reshape(layer, _sizes(node.shape))
    if op.bias:
        made.keep(node, "bias", layer, 1, (op.units,), (0,))
    return result


def _batch_norm(made: Realisation, node: Node, op: ops.BatchNorm, inputs: list[Any]) -> Any:
    """The library counts two spatial axes alone, so a third is folded into the first."""
    *spatial, channels = _source(made, node)
    deep, x, voxels = len(spatial) > 2, inputs[0], math.prod(spatial)
    if deep:
        x = made.eddl.Reshape(x, [channels, voxels // spatial[-1], spatial[-1]])
    copies = copies_apart(channels, voxels, made.threads)
    if copies is None:
        made.racing.append(node.name)
    elif copies > 1:
        x = made.eddl.Concat([x] * copies, 0)
    layer = made.eddl.BatchNormalization(x, True, op.momentum, op.epsilon, name=node.name)
    for index, name in enumerate(("gamma", "beta", "mean", "variance")):
        # The library divides the gradients of gamma and beta by the number of values that they act on.
        made.keep(node, name, layer, index, (channels,), (0,), voxels if index < 2 else 0)
    if copies is not None and copies > 1:
        layer = made.eddl.Select(layer, [f"0:{channels}", ":", ":"])
    return made.eddl.Reshape(layer, [channels, *spatial]) if deep else layer


def _prelu(made: Realisation, node: Node, op: ops.PRelu, inputs: list[Any]) -> Any:
    """max(x, 0) - alpha max(-x, 0), with alpha a learned value for every image."""
    shape, axes = node.shape, len(node.shape)
    if op.shared == "channel":
        alpha = made.learned(node, "alpha", shape[-1:], (0,))
        alpha = _spread(made, alpha, shape) if axes > 1 else alpha
    else:
        alpha = made.learned(node, "alpha", _sizes(shape), (*range(1, axes), 0))
    below = made.eddl.ReLu(made.eddl.Mult(inputs[0], -1.0))
    return made.eddl.Sub(made.eddl.ReLu(inputs[0], name=node.name), made.eddl.Mult(below, alpha))


def _dropout(made: Realisation, node: Node, op: ops.Dropout, inputs: list[Any]) -> Any:
    """A product with a mask that is fed: the library's own generator has no seed, and nothing can save its state."""
    if op.rate == 0:
        return inputs[0]
    made.masks[node.name] = made.eddl.Input(_sizes(node.shape))
    return made.eddl.Mult(inputs[0], made.masks[node.name])


def _pool(made: Realisation, node: Node, op: ops.MaxPool | ops.AveragePool, inputs: list[Any]) -> Any:
    largest, shape = isinstance(op, ops.MaxPool), _source(made, node)
    widths = tuple((before, after + more) for (before, after), more in zip(op.padding, op.overhang(shape), strict=True))
    x = _padded(made, inputs[0], shape, widths, -math.inf if largest else 0.0)
    layer = f"{'MaxPool' if largest else 'AveragePool'}{len(op.size)}D"
    return getattr(made.eddl, layer)(x, list(op.size), list(op.stride), "none", name=node.name)


def _global_average(made: Realisation, node: Node, op: ops.GlobalAverage, inputs: list[Any]) -> Any:
    rank = len(_source(made, node)) - 1
    if rank == 0:
        return inputs[0]
    x = getattr(made.eddl, f"GlobalAveragePool{rank}D")(inputs[0], name=node.name)
    return x if op.keep_axes else made.eddl.Reshape(x, _sizes(node.shape))


def _upsample(made: Realisation, node: Node, op: ops.Upsample, inputs: list[Any]) -> Any:
    if len(op.factor) == 3:
        return made.eddl.UpSampling3D(inputs[0], list(node.shape[:-1]), name=node.name)
    rows, _, channels = _source(made, node)
    if upsampling_is_safe(channels, rows, made.threads):
        return made.eddl.UpSampling2D(inputs[0], list(op.factor), name=node.name)
    return made.eddl.Repeat(
        made.eddl.Repeat(inputs[0], op.factor[0], 1), op.factor[1], 2
    )  # a thread takes whole images


def _resize(made: Realisation, node: Node, op: ops.Resize, inputs: list[Any]) -> Any:
    """To the nearest voxel, one axis after the other: how often each voxel is repeated, 0 included."""
    x = inputs[0]
    for axis, (before, after) in enumerate(zip(_source(made, node)[:-1], op.size, strict=True), start=1):
        chosen = np.arange(after) * before // after
        x = made.eddl.Repeat(x, np.bincount(chosen, minlength=before).tolist(), axis)
    return x


def _multiply(made: Realisation, node: Node, op: ops.Multiply, inputs: list[Any]) -> Any:
    product = None
    for source, shape in zip(inputs, made.graph.input_shapes(node), strict=True):
        x = source
        for axis, (size, wanted) in enumerate(zip(_sizes(shape), _sizes(node.shape), strict=True)):
            if size != wanted:
                x = made.eddl.Repeat(x, wanted, axis)
        product = x if product is None else made.eddl.Mult(product, x)
    return product


def _maximum(made: Realisation, node: Node, op: ops.Maximum, inputs: list[Any]) -> Any:
    """a + max(b - a, 0): the library's own maximum adds."""
    largest = inputs[0]
    for x in inputs[1:]:
        largest = made.eddl.Add([largest, made.eddl.ReLu(made.eddl.Sub(x, largest))])
    return largest


def _flatten(made: Realisation, node: Node, op: ops.Flatten, inputs: list[Any]) -> Any:
    """Ours has channels run fastest."""
    rank, x = len(_source(made, node)) - 1, inputs[0]
    if rank:
        x = made.eddl.Permute(x, [*range(1, rank + 1), 0])
    return made.eddl.Reshape(x, list(node.shape))


def _instance_norm(made: Realisation, node: Node, op: ops.InstanceNorm, inputs: list[Any]) -> Any:
    """Mean and variance by global averages, with the library's arithmetic between layers."""
    eddl, shape = made.eddl, node.shape
    mean_of = getattr(eddl, f"GlobalAveragePool{len(shape) - 1}D")
    gamma, beta = (_spread(made, made.learned(node, name, shape[-1:], (0,)), shape) for name in ("gamma", "beta"))
    away = eddl.Sub(inputs[0], _spread(made, mean_of(inputs[0]), shape))
    spread = eddl.Sqrt(eddl.Add(mean_of(eddl.Mult(away, away)), op.epsilon))
    return eddl.Add([eddl.Mult(eddl.Div(away, _spread(made, spread, shape)), gamma), beta])


def _plain(call: Callable[[Any, Any, list[Any], str], Any]) -> Callable[[Realisation, Node, Any, list[Any]], Any]:
    """An operation that is one layer."""
    return lambda made, node, op, inputs: call(made.eddl, op, inputs, node.name)


REALISE: dict[type[ops.Op], Callable[[Realisation, Node, Any, list[Any]], Any]] = {
    ops.Input: _input,
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Dense: _dense,
    ops.BatchNorm: _batch_norm,
    ops.InstanceNorm: _instance_norm,
    ops.Relu: _plain(lambda eddl, op, inputs, name: eddl.ReLu(inputs[0], name=name)),
    ops.LeakyRelu: _plain(lambda eddl, op, inputs, name: eddl.LeakyReLu(inputs[0], op.slope, name=name)),
    ops.PRelu: _prelu,
    ops.Sigmoid: _plain(lambda eddl, op, inputs, name: eddl.Sigmoid(inputs[0], name=name)),
    ops.Softmax: _plain(lambda eddl, op, inputs, name: eddl.Softmax(inputs[0], 1, name=name)),
    ops.Dropout: _dropout,
    ops.MaxPool: _pool,
    ops.AveragePool: _pool,
    ops.GlobalAverage: _global_average,
    ops.Upsample: _upsample,
    ops.Resize: _resize,
    ops.Concat: _plain(lambda eddl, op, inputs, name: eddl.Concat(inputs, 0, name=name)),
    ops.Add: _plain(lambda eddl, op, inputs, name: eddl.Add(inputs, name=name)),
    ops.Maximum: _maximum,
    ops.Multiply: _multiply,
    ops.Flatten: _flatten,
}
