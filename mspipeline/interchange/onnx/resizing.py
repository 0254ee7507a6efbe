"""ONNX's Resize as our Upsample or Resize, whatever formula it uses, where it takes the same voxels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mspipeline.interchange.onnx.layout import onnx_nearest, own_nearest
from mspipeline.interchange.onnx.tensors import Array, Call, Value
from mspipeline.network import ops
from mspipeline.network.ops import Shape


def read_resize(call: Call) -> None:
    """Resize of the spatial axes, nearest or linear."""
    x, get = call.image(), call.attributes.get
    mode, transformation = get("mode", "nearest"), get("coordinate_transformation_mode", "half_pixel")
    before = call.spatial(x)
    after = _resized(call, x, before)
    if after == before:
        call.keep(x)
        return
    if mode == "nearest":
        _nearest(
            call, x, after, lambda n, m: onnx_nearest(n, m, transformation, get("nearest_mode", "round_prefer_floor"))
        )
        return
    call.require(mode == "linear" and not get("antialias", 0), f"mode {mode} or antialias is not supported")
    known = {"align_corners": True, "half_pixel": False} | ({"pytorch_half_pixel": False} if min(after) > 1 else {})
    call.require(transformation in known, f"linear with {transformation} is not supported")
    call.emit(ops.Resize(after, "bilinear", known[transformation]), x)


def _resized(call: Call, x: Value, before: Shape) -> Shape:
    """The spatial sizes after a Resize, by its sizes or scales."""
    shape = np.array([call.reading.batch, call.reading.builder.shape(x.node)[-1], *before])
    axes = [int(axis) for axis in call.attributes.get("axes", range(len(shape)))]
    scales, sizes = call.constant(2), call.constant(3)
    after = shape.copy()
    if sizes is not None and sizes.size:
        after[axes] = sizes
        call.require(call.attributes.get("keep_aspect_ratio_policy", "stretch") == "stretch", "keeps the aspect ratio")
    elif scales is not None and scales.size:
        exact = shape[axes] * scales.astype(float)
        after[axes] = np.floor(exact + 1e-4)
        call.require(
            bool(np.allclose(after[axes], exact, atol=1e-3)), "scales that give no whole size are not supported"
        )
    else:
        call.refuse("has neither sizes nor scales")
    call.require(after[0] == shape[0] and after[1] == shape[1], "resizing batch or channels is not supported")
    return tuple(int(size) for size in after[2:])


def _nearest(call: Call, x: Value, after: Shape, taken: Callable[[int, int], Array]) -> None:
    """A nearest-neighbour resizing by whatever formula, where it takes the voxels that ours takes."""
    before = call.spatial(x)
    try:
        same = all(np.array_equal(taken(n, m), own_nearest(n, m)) for n, m in zip(before, after, strict=True))
    except KeyError as error:
        call.refuse(f"mode {error} is not supported")
    call.require(same, "takes other voxels than floor(i n / m), the nearest neighbour that is supported")
    if all(m % n == 0 for n, m in zip(before, after, strict=True)):
        call.emit(ops.Upsample(tuple(m // n for n, m in zip(before, after, strict=True))), x)
    else:
        call.emit(ops.Resize(after, "nearest", align_corners=False), x)


def read_gather(call: Call) -> None:
    """Indices along one spatial axis, where they are a nearest-neighbour resizing's."""
    x, indices = call.image(), call.constant(1)
    axis = call.attributes.get("axis", 0) % (len(x.axes) + 1)
    if axis < 2 or indices is None or indices.ndim != 1:
        call.refuse("supported along a spatial axis with stored indices alone")
    after = list(call.spatial(x))
    after[axis - 2] = indices.size
    _nearest(call, x, tuple(after), lambda n, m: indices if m == indices.size else own_nearest(n, m))
