"""ONNX's operations as ours: the table `READ` has one function per operation that can be read.

Each takes the node under way, checks that its attributes mean what one of our operations computes, and refuses by name
where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mspipeline.interchange.onnx import resizing, shaping, sliding
from mspipeline.interchange.onnx.tensors import Array, Call, Value
from mspipeline.network import ops

MOMENTUM = 0.9  # ONNX's default


def decimal(value: float) -> float:
    """A float32 of the file as the shortest decimal that gives it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _dense(call: Call, x: Value, kernel: Array, bias: Array | None) -> None:
    """kernel: (in, out) in the file's order of the last axis."""
    last = len(call.reading.builder.shape(x.node)) - 1
    call.require(x.axes[-1] == last, "expected channels as the tensor's last axis; flatten an image before")
    call.require(kernel.ndim == 2 and kernel.shape[0] == call.reading.shape(x)[-1], "its matrix does not fit its input")
    weights = {"kernel": call.reorder(x, kernel)}
    if bias is not None:
        call.require(bias.size in (1, kernel.shape[1]), "its third input is not one value a unit")
        weights["bias"] = np.broadcast_to(bias.reshape(-1), kernel.shape[1])
    op = ops.Dense(kernel.shape[1], bias=bias is not None)
    call.emit(op, x, weights=weights, like=replace(x, places=None))


def _gemm(call: Call) -> None:
    get = call.attributes.get
    call.require(not get("transA", 0), "transA is not supported")
    kernel = call.weight(1) * np.float32(get("alpha", 1.0))
    bias = call.weight(2) * np.float32(get("beta", 1.0)) if call.given(2) else None
    _dense(call, call.value(), kernel.T if get("transB", 0) else kernel, bias)


def _batch_norm(call: Call) -> None:
    x = call.channels_second()
    call.require(not call.attributes.get("training_mode", 0), "is in training mode; export the model for inference")
    op = ops.BatchNorm(
        decimal(call.attributes.get("momentum", MOMENTUM)), decimal(call.attributes.get("epsilon", 1e-5))
    )
    names = ("gamma", "beta", "mean", "variance")
    call.emit(op, x, weights={name: call.reorder(x, call.weight(place)) for place, name in enumerate(names, 1)})


def _instance_norm(call: Call) -> None:
    op = ops.InstanceNorm(decimal(call.attributes.get("epsilon", 1e-5)))
    call.emit(op, call.image(), weights={"gamma": call.weight(1), "beta": call.weight(2)})


def _prelu(call: Call) -> None:
    x, slope = call.value(), call.weight(1)
    channel = call.per_channel(x, slope)
    if channel is not None and x.places is None:
        call.emit(ops.PRelu("channel", "quarter"), x, weights={"alpha": channel})
        return
    theirs = call.reading.shape(x)
    call.require(slope.ndim <= len(theirs) or slope.shape[0] == 1, "its slope differs between images of a batch")
    slope = slope[0] if slope.ndim > len(theirs) else slope
    alpha = call.reorder(x, np.broadcast_to(slope, theirs))
    ours = call.reading.builder.shape(x.node)
    order = np.argsort(x.axes)  # theirs -> ours; axes that the file lacks are of size 1
    call.emit(ops.PRelu("voxel", "quarter"), x, weights={"alpha": alpha.transpose(order).reshape(ours)})


def _softmax(call: Call) -> None:
    x = call.value()
    sizes = call.reading.shape(x)
    axis = call.attributes.get("axis", -1 if call.reading.opset >= 13 else 1) % (len(sizes) + 1)
    call.require(axis > 0, "a softmax over the batch is not supported")
    # Before opset 13 it runs over all axes from `axis` on.
    alone = call.reading.opset >= 13 or math.prod(sizes[axis:]) == 1
    last = x.axes[axis - 1] == len(call.reading.builder.shape(x.node)) - 1
    call.require(alone and last, "a softmax over other axes than the channels is not supported")
    call.emit(ops.Softmax(), x)


def _dropout(call: Call) -> None:
    training = call.constant(2)
    call.require(training is None or not training.any(), "is in training mode; export the model for inference")
    ratio = call.constant(1)
    rate = float(ratio) if ratio is not None else call.attributes.get("ratio", 0.5)
    call.emit(ops.Dropout(decimal(rate)), call.value())


def _join(call: Call, op: ops.Op) -> None:
    """Inputs of one layout; a constant is taken as the bias of the linear operation before."""
    reading = call.reading
    constants = [each for each in call.node.input if each in reading.constants]
    if constants:
        place = 1 - list(call.node.input).index(constants[0])
        fits = isinstance(op, ops.Add) and len(call.node.input) == 2 and len(constants) == 1
        x = call.value(place) if fits else None
        if x is None or not call.bias_into(x, reading.constants[constants[0]]):
            call.refuse("with a stored constant is supported as the bias of a Conv, ConvTranspose or MatMul alone")
        call.keep(x)
        return
    values = [call.value(place) for place in range(len(call.node.input))]
    if len({len(reading.builder.shape(value.node)) for value in values}) > 1:
        values = [reading.flat(value, f"{value.node}_flat") for value in values]
    call.require(len({value.axes for value in values}) == 1, "its inputs are laid out differently")
    call.require(all(_same(values[0].places, value.places) for value in values), "joins images flattened differently")
    if len(values) == 1:
        call.keep(values[0])
    else:
        call.emit(op, *values)


def _same(left: Array | None, right: Array | None) -> bool:
    return left is right or (left is not None and right is not None and np.array_equal(left, right))


def _concat(call: Call) -> None:
    reading, values = call.reading, [call.value(place) for place in range(len(call.node.input))]
    if len({len(reading.builder.shape(value.node)) for value in values}) > 1:
        values = [reading.flat(value, f"{value.node}_flat") for value in values]
    axes = values[0].axes
    axis = call.attributes["axis"] % (len(axes) + 1)
    last = len(reading.builder.shape(values[0].node)) - 1
    channels = axis > 0 and axes[axis - 1] == last and len({value.axes for value in values}) == 1
    call.require(channels, "joining along other axes than the channels is not supported")
    places, start = [], 0
    for value in values:
        size = reading.builder.shape(value.node)[-1]
        places.append(start + (np.arange(size) if value.places is None else value.places))
        start += size
    ordered = all(value.places is None for value in values)
    like = replace(values[0], places=None if ordered else np.concatenate(places))
    call.emit(ops.Concat(), *values, like=like)


def _cast(call: Call) -> None:
    call.require(call.attributes["to"] == call.reading.onnx.TensorProto.FLOAT, "to another type than float32")
    call.keep(call.value(padded=True))


def _keep(call: Call) -> None:
    call.keep(call.value(padded=True))


def _pointwise(op: Callable[[Call], ops.Op]) -> Callable[[Call], None]:
    def read(call: Call) -> None:
        call.emit(op(call), call.value())

    return read


READ: dict[str, Callable[[Call], None]] = {
    "Add": lambda call: _join(call, ops.Add()),
    "AveragePool": lambda call: sliding.read_pool(call, ops.AveragePool),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": sliding.read_conv,
    "ConvTranspose": sliding.read_conv_transpose,
    "Dropout": _dropout,
    "Flatten": shaping.read_flatten,
    "Gather": resizing.read_gather,
    "Gemm": _gemm,
    "GlobalAveragePool": sliding.read_global_average,
    "Identity": _keep,
    "InstanceNormalization": _instance_norm,
    "LeakyRelu": _pointwise(lambda call: ops.LeakyRelu(decimal(call.attributes.get("alpha", 0.01)))),
    "MatMul": lambda call: _dense(call, call.value(), call.weight(1), None),
    "Max": lambda call: _join(call, ops.Maximum()),
    "MaxPool": lambda call: sliding.read_pool(call, ops.MaxPool),
    "Mul": lambda call: _join(call, ops.Multiply()),
    "PRelu": _prelu,
    "Pad": sliding.read_pad,
    "ReduceMean": sliding.read_reduce_mean,
    "Relu": _pointwise(lambda call: ops.Relu()),
    "Reshape": shaping.read_reshape,
    "Resize": resizing.read_resize,
    "Sigmoid": _pointwise(lambda call: ops.Sigmoid()),
    "Softmax": _softmax,
    "Squeeze": shaping.read_squeeze,
    "Sum": lambda call: _join(call, ops.Add()),
    "Transpose": shaping.read_transpose,
    "Unsqueeze": shaping.read_unsqueeze,
}
"""Beside these, whatever is computed from stored constants and from shapes alone is worked out on the way."""
