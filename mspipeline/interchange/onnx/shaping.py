"""ONNX's operations that only lay a tensor out anew: most become no node of ours, but another `Value.axes`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NoReturn

import numpy as np

from mspipeline.interchange.onnx.tensors import Call, Value
from mspipeline.network import ops
from mspipeline.network.ops import Shape


def read_flatten(call: Call) -> None:
    """Flatten of all but the batch."""
    x = call.value()
    call.require(call.attributes.get("axis", 1) % (len(x.axes) + 1) == 1, "flattening from another axis than 1")
    _to_vector(call, x)


def _to_vector(call: Call, x: Value) -> None:
    """A vector; where only the channels' axis is longer than 1, ours stays as it is."""
    ours = call.reading.builder.shape(x.node)
    if math.prod(ours) == ours[-1]:
        call.keep(replace(x, axes=(len(ours) - 1,)))
        return
    grid = np.arange(math.prod(ours)).reshape(ours)
    lacking = tuple(axis for axis in range(len(ours)) if axis not in x.axes)
    places = grid.transpose(*x.axes, *lacking).ravel()  # axes that the file lacks are of size 1
    ordered = np.array_equal(places, np.arange(places.size))
    call.emit(ops.Flatten(), x, like=Value("", (0,), None if ordered else places))


def read_reshape(call: Call) -> None:
    """Reshape that flattens, or adds and drops axes of size 1."""
    wanted = call.constant(1)
    if wanted is None:
        call.refuse("its shape is left out")
    x = call.value()
    theirs = (call.reading.batch, *call.reading.shape(x))
    target = [theirs[place] if size == 0 else int(size) for place, size in enumerate(wanted)]
    if -1 in target:
        target[target.index(-1)] = math.prod(theirs) // -math.prod(target)
    _to_shape(call, x, tuple(target))


def _to_shape(call: Call, x: Value, target: Shape) -> None:
    """target: of the file's tensor, batch included."""
    batch, theirs, ours = call.reading.batch, call.reading.shape(x), call.reading.builder.shape(x.node)
    rank, thin = len(target) - 1, math.prod(ours) == ours[-1]
    if target == (batch, *theirs):
        call.keep(x)
    elif target == (batch, math.prod(theirs)):
        _to_vector(call, x)
    elif thin and target == (batch, ours[-1], *(1,) * (rank - 1)) and rank <= len(ours):
        call.keep(replace(x, axes=(len(ours) - 1, *range(rank - 1))))
    else:
        why = "is not supported; it may flatten, or add and drop axes of size 1"
        call.refuse(f"from {(batch, *theirs)} to {target} {why}")


def read_squeeze(call: Call) -> None:
    """Squeeze of named axes."""
    x = call.value()
    theirs = (call.reading.batch, *call.reading.shape(x))
    dropped = {axis % len(theirs) for axis in call.axes(1) or _without_axes(call)}
    _to_shape(call, x, tuple(size for axis, size in enumerate(theirs) if axis not in dropped))


def _without_axes(call: Call) -> NoReturn:
    call.refuse("without axes is not supported")


def read_unsqueeze(call: Call) -> None:
    """Unsqueeze, back to the axes that a mean left at size 1."""
    x = call.value()
    target = [call.reading.batch, *call.reading.shape(x)]
    axes = call.axes(1) or _without_axes(call)
    for axis in sorted(axis % (len(target) + len(axes)) for axis in axes):
        target.insert(axis, 1)
    _to_shape(call, x, tuple(target))


def read_transpose(call: Call) -> None:
    """Transpose of all but the batch: no node of ours."""
    x = call.value()
    order = call.attributes.get("perm", range(len(x.axes) + 1)[::-1])
    call.require(order[0] == 0, "moving the batch axis is not supported")
    call.keep(replace(x, axes=tuple(x.axes[axis - 1] for axis in order[1:])))
