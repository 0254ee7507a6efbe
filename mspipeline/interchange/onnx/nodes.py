"""Our operations as ONNX nodes: the table `EMIT` has one function per operation.

Every node's result bears the node's name; what helps it is called `NODE.its_part`. Dropout is in the file and does
nothing there, as in inference. Windows that hang over the end are written as padding, since runtimes differ in
`ceil_mode`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mspipeline.interchange.onnx.layout import onnx_nearest, own_nearest
from mspipeline.interchange.onnx.model import Model
from mspipeline.network import ops
from mspipeline.network.graph import Node
from mspipeline.network.ops import Padding


def _pads(padding: Padding) -> list[int]:
    """ONNX's order: every axis' before, then every axis' after."""
    return [before for before, _ in padding] + [after for _, after in padding]


def _conv(model: Model, node: Node, op: ops.Conv) -> None:
    model.node(
        "Conv",
        [*node.inputs, model.weight(node, "kernel"), *model.bias(node, given=op.bias)],
        node.name,
        kernel_shape=op.kernel,
        strides=op.stride,
        dilations=op.dilation,
        pads=_pads(op.padding),
    )


def _conv_transpose(model: Model, node: Node, op: ops.ConvTranspose) -> None:
    inputs = [*node.inputs, model.weight(node, "kernel"), *model.bias(node, given=op.bias)]
    model.node("ConvTranspose", inputs, node.name, kernel_shape=op.kernel, strides=op.stride)


def _dense(model: Model, node: Node, op: ops.Dense) -> None:
    """Over spatial axes a pointwise convolution: the last axis of ours is ONNX's second."""
    inputs = [*node.inputs, model.weight(node, "kernel"), *model.bias(node, given=op.bias)]
    spatial = len(model.received(node)) - 1
    if spatial:
        model.node("Conv", inputs, node.name, kernel_shape=(1,) * spatial)
    else:
        model.node("Gemm", inputs, node.name)


def _batch_norm(model: Model, node: Node, op: ops.BatchNorm) -> None:
    weights = [model.weight(node, name) for name in ("gamma", "beta", "mean", "variance")]
    model.node("BatchNormalization", [*node.inputs, *weights], node.name, epsilon=op.epsilon, momentum=op.momentum)


def _instance_norm(model: Model, node: Node, op: ops.InstanceNorm) -> None:
    weights = [model.weight(node, name) for name in ("gamma", "beta")]
    model.node("InstanceNormalization", [*node.inputs, *weights], node.name, epsilon=op.epsilon)


def _prelu(model: Model, node: Node, op: ops.PRelu) -> None:
    model.node("PRelu", [*node.inputs, model.weight(node, "alpha")], node.name)


def _dropout(model: Model, node: Node, op: ops.Dropout) -> None:
    model.node("Dropout", [*node.inputs, model.constant(f"{node.name}.rate", np.float32(op.rate))], node.name)


def _max_pool(model: Model, node: Node, op: ops.MaxPool) -> None:
    overhang = op.overhang(model.received(node))
    padding = tuple((before, after + more) for (before, after), more in zip(op.padding, overhang, strict=True))
    model.node("MaxPool", [*node.inputs], node.name, kernel_shape=op.size, strides=op.stride, pads=_pads(padding))


def _average_pool(model: Model, node: Node, op: ops.AveragePool) -> None:
    """Padding counts and what hangs over does not: where there are both, the former becomes zeros of the input."""
    overhang, source, padding = op.overhang(model.received(node)), node.inputs[0], op.padding
    if any(overhang):
        if any(map(any, padding)):
            pads = np.array([0, 0, *(b for b, _ in padding), 0, 0, *(a for _, a in padding)], np.int64)
            source = model.node(
                "Pad", [source, model.constant(f"{node.name}.pads", pads)], f"{node.name}.padded", mode="constant"
            )
        padding = tuple((0, more) for more in overhang)
    model.node(
        "AveragePool",
        [source],
        node.name,
        kernel_shape=op.size,
        strides=op.stride,
        pads=_pads(padding),
        count_include_pad=0 if any(overhang) else 1,
    )


def _global_average(model: Model, node: Node, op: ops.GlobalAverage) -> None:
    if op.keep_axes:
        model.node("GlobalAveragePool", [*node.inputs], node.name)
    else:
        model.node("Flatten", [model.node("GlobalAveragePool", [*node.inputs], f"{node.name}.kept")], node.name, axis=1)


def _upsample(model: Model, node: Node, op: ops.Upsample) -> None:
    scales = model.constant(f"{node.name}.factor", np.array([1, 1, *op.factor], np.float32))
    model.node("Resize", [*node.inputs, "", scales], node.name, **_NEAREST)


_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def _resize(model: Model, node: Node, op: ops.Resize) -> None:
    """By nearest, an axis where float32 would round floor(i n / m) to another voxel is gathered by its indices."""
    axes = list(range(2, 2 + len(op.size)))
    if op.method == "bilinear":
        modes = {"mode": "linear", "coordinate_transformation_mode": _CORNERS[op.align_corners]}
    else:
        modes = _NEAREST
        before = model.received(node)[:-1]
        taken = [own_nearest(n, m) for n, m in zip(before, op.size, strict=True)]
        rounded = [onnx_nearest(n, m, "asymmetric", "floor") for n, m in zip(before, op.size, strict=True)]
        if any(map(_differ, taken, rounded)):
            source = node.inputs[0]
            for axis, indices in zip(axes, taken, strict=True):
                result = node.name if axis == axes[-1] else f"{node.name}.axis{axis}"
                source = model.node(
                    "Gather", [source, model.constant(f"{node.name}.indices{axis}", indices)], result, axis=axis
                )
            return
    size = model.constant(f"{node.name}.size", np.array(op.size, np.int64))
    model.node("Resize", [*node.inputs, "", "", size], node.name, axes=axes, **modes)


_CORNERS = {True: "align_corners", False: "half_pixel"}


def _differ(left: Any, right: Any) -> bool:
    return not np.array_equal(left, right)


def _multiply(model: Model, node: Node, op: ops.Multiply) -> None:
    source, *others = node.inputs
    for place, other in enumerate(others, 1):
        source = model.node("Mul", [source, other], node.name if place == len(others) else f"{node.name}.part{place}")


def _flatten(model: Model, node: Node, op: ops.Flatten) -> None:
    """Ours runs fastest over channels, so they are moved to the end before."""
    source, rank = node.inputs[0], len(model.received(node))
    if rank > 1:
        last = [0, *range(2, rank + 1), 1]  # (N, C, *spatial) -> (N, *spatial, C)
        source = model.node("Transpose", [source], f"{node.name}.channels_last", perm=last)
    model.node("Flatten", [source], node.name, axis=1)


def _plain(kind: str, **attributes: Any) -> Callable[[Model, Node, Any], None]:
    """An operation that is one ONNX node without weights."""

    def emit(model: Model, node: Node, op: Any) -> None:
        model.node(kind, [*node.inputs], node.name, **attributes)

    return emit


def _leaky_relu(model: Model, node: Node, op: ops.LeakyRelu) -> None:
    model.node("LeakyRelu", [*node.inputs], node.name, alpha=op.slope)


EMIT: dict[type[ops.Op], Callable[[Model, Node, Any], None]] = {
    ops.Input: lambda model, node, op: None,
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Dense: _dense,
    ops.BatchNorm: _batch_norm,
    ops.InstanceNorm: _instance_norm,
    ops.Relu: _plain("Relu"),
    ops.LeakyRelu: _leaky_relu,
    ops.PRelu: _prelu,
    ops.Sigmoid: _plain("Sigmoid"),
    ops.Softmax: _plain("Softmax", axis=1),
    ops.Dropout: _dropout,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.GlobalAverage: _global_average,
    ops.Upsample: _upsample,
    ops.Resize: _resize,
    ops.Concat: _plain("Concat", axis=1),
    ops.Add: _plain("Sum"),
    ops.Maximum: _plain("Max"),
    ops.Multiply: _multiply,
    ops.Flatten: _flatten,
}
