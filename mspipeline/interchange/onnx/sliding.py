"""ONNX's convolutions and poolings as ours, and the Pad before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mspipeline.interchange.onnx.layout import restored
from mspipeline.interchange.onnx.tensors import Array, Call, Value
from mspipeline.network import ops
from mspipeline.network.ops import Padding, Shape


def _joined(outer: Padding, inner: Padding) -> Padding:
    if not outer:
        return inner
    return tuple((a + c, b + d) for (a, b), (c, d) in zip(outer, inner, strict=True))


def _window(call: Call, value: Value, kernel: Shape, dilation: Shape) -> tuple[Shape, Padding]:
    """Stride and padding of a convolution or pooling, what waits from a Pad node included."""
    rank = len(kernel)
    stride = tuple(call.attributes.get("strides", (1,) * rank))
    mode = call.attributes.get("auto_pad", "NOTSET")
    pads = call.attributes.get("pads", (0,) * 2 * rank)
    padding = tuple(zip(pads[:rank], pads[rank:], strict=True))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = call.spatial(value)
        if value.padding:
            call.refuse(f"auto_pad={mode} after Pad is not supported")
        reach = [rate * (size - 1) + 1 for rate, size in zip(dilation, kernel, strict=True)]
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(sizes, stride, reach, strict=True)]
        small = [(total // 2, total - total // 2) for total in totals]
        padding = tuple(small if mode == "SAME_UPPER" else [(after, before) for before, after in small])
    return stride, _joined(value.padding, padding)


def read_conv(call: Call) -> None:
    """Conv of one group; the bias is optional."""
    x, kernel = call.image(padded=True), call.weight(1)
    call.require(call.attributes.get("group", 1) == 1, "grouped convolution is not supported")
    call.require(x.fill == 0, "a padding other than zeros is not supported")
    size = kernel.shape[2:]
    dilation = tuple(call.attributes.get("dilations", (1,) * len(size)))
    stride, padding = _window(call, x, size, dilation)
    bias = call.given(2)
    op = ops.Conv(kernel.shape[0], size, stride, dilation, padding, bias=bias)
    _linear(call, op, x, kernel, bias=bias)


def read_conv_transpose(call: Call) -> None:
    """ConvTranspose that crops and extends nothing."""
    x, kernel = call.image(), call.weight(1)
    size, get = kernel.shape[2:], call.attributes.get
    plain = get("group", 1) == 1 and set(get("dilations", (1,))) == {1}
    call.require(plain, "groups and dilations are not supported in a transposed convolution")
    uncropped = (
        not any(get("pads", ())) and not any(get("output_padding", ())) and "output_shape" not in call.attributes
    )
    why = "a transposed convolution that is cropped or extended (pads, output_padding, output_shape) is not supported"
    call.require(uncropped and get("auto_pad", "NOTSET") in ("NOTSET", "VALID"), why)
    bias, stride = call.given(2), tuple(get("strides", (1,) * len(size)))
    call.require(all(k >= s for k, s in zip(size, stride, strict=True)), "its stride is wider than its kernel")
    _linear(call, ops.ConvTranspose(kernel.shape[1], size, stride, bias=bias), x, kernel, bias=bias)


def _linear(call: Call, op: ops.Conv | ops.ConvTranspose, x: Value, kernel: Array, *, bias: bool) -> None:
    weights = {"kernel": restored(op, "kernel", kernel, kernel.ndim - 1)}
    received = call.reading.builder.shape(x.node)[-1]
    if weights["kernel"].shape[-2] != received:
        call.refuse(f"its kernel takes {weights['kernel'].shape[-2]} channels, received {received}")
    call.emit(op, x, weights=weights | ({"bias": call.weight(2)} if bias else {}))


def read_pool(call: Call, kind: type[ops.MaxPool] | type[ops.AveragePool]) -> None:
    """MaxPool or AveragePool; an average's padding counts, or is what its last window hangs over by."""
    x, size = call.image(padded=True), tuple(call.attributes["kernel_shape"])
    call.require(set(call.attributes.get("dilations", (1,))) == {1}, "a dilated pooling is not supported")
    call.require(len([each for each in call.node.output if each]) == 1, "its indices are not supported")
    ceil = bool(call.attributes.get("ceil_mode", 0))
    outer, own = x.padding, replace(x, padding=())
    stride, padding = _window(call, own, size, (1,) * len(size))
    if kind is ops.MaxPool:
        lowest = x.fill <= float(np.finfo(np.float32).min)
        call.require(not outer or lowest, "a maximum over padding other than minus infinity is not supported")
    elif not call.attributes.get("count_include_pad", 0) and any(map(any, padding)):
        _hanging_average(call, x, size, stride, padding)
        return
    elif outer and x.fill != 0:
        call.refuse("a padding other than zeros is not supported")
    op = _or_refuse(call, kind, size, stride, _joined(outer, padding), ceil)
    call.emit(op, x)


def _hanging_average(call: Call, x: Value, size: Shape, stride: Shape, padding: Padding) -> None:
    """Padding that does not count: ours where it is what the last window of a `ceil` pooling hangs over by."""
    op = _or_refuse(call, ops.AveragePool, size, stride, x.padding or ((0, 0),) * len(size), True)
    over = op.overhang(call.reading.builder.shape(x.node))
    fits = x.fill == 0 and padding == tuple((0, more) for more in over)
    call.require(fits, "an average that leaves out its padding (count_include_pad=0 with pads) is not supported")
    call.emit(op, x)


def _or_refuse(call: Call, kind: Any, size: Shape, stride: Shape, padding: Padding, ceil: bool) -> Any:
    wide = any(max(pads) >= window for pads, window in zip(padding, size, strict=True))
    call.require(not wide, f"padding as wide as its window is not supported; received: {padding}")
    return kind(size, stride, padding, ceil)


def read_global_average(call: Call) -> None:
    """GlobalAveragePool, which keeps axes of size 1."""
    call.emit(ops.GlobalAverage(keep_axes=True), call.image())


def read_reduce_mean(call: Call) -> None:
    """ReduceMean over all spatial axes."""
    x = call.image()
    rank = len(x.axes) + 1
    spatial = sorted(axis % rank for axis in call.axes(1) or range(rank)) == list(range(2, rank))
    call.require(spatial, "a mean over other axes than all spatial ones is not supported")
    kept = call.emit(ops.GlobalAverage(keep_axes=True), x)
    if not call.attributes.get("keepdims", 1):
        call.keep(replace(kept, axes=kept.axes[:1]))


def read_pad(call: Call) -> None:
    """Pad by a constant: it waits for the convolution or pooling that takes it in."""
    x = call.image(padded=True)
    call.require(call.attributes.get("mode", "constant") == "constant", "pads by other than a constant")
    pads, fill = call.constant(1), call.constant(2)
    rank = len(x.axes) + 1
    if pads is None:
        call.refuse("its pads are left out")
    around = [(0, 0)] * rank
    for place, axis in enumerate(call.axes(3) or range(rank)):
        around[axis % rank] = (int(pads[place]), int(pads[place + len(pads) // 2]))
    call.require(not any(map(any, around[:2])), "padding of batch or channels is not supported")
    call.require(min(map(min, around)) >= 0, "negative padding is not supported")
    value = 0.0 if fill is None else float(fill)
    call.require(not x.padding or x.fill == value, "two paddings of different values are not supported")
    if any(map(any, around)):
        x = replace(x, padding=_joined(x.padding, tuple(around[2:])), fill=value)
    call.keep(x)
