"""Tensors of a foreign ONNX file as they become nodes of a graph, and the one file node under way."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mspipeline.errors import DataError, ShapeError
from mspipeline.interchange.onnx.model import load_onnx
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Conv, ConvTranspose, Dense, Flatten, Op, Padding, Shape
from mspipeline.network.weights import Weights

Array = npt.NDArray[Any]
NOTHING: Padding = ()


@dataclass(frozen=True)
class Value:
    """A tensor of the file: which node of ours it is, and how the file lays it out.

    axes: for each axis of the file's tensor after the batch, which of ours; axes of ours that it lacks are of size 1.
    places: of a flattened tensor, where each of the file's values is in ours; None where they are in one order.
    padding, fill: what the file has put around it and the next window takes in.
    """

    node: str
    axes: tuple[int, ...]
    places: npt.NDArray[np.int64] | None = None
    padding: Padding = NOTHING
    fill: float = 0.0


def standard(rank: int) -> tuple[int, ...]:
    """`Value.axes` of channels first, for a node of this many axes."""
    return (rank - 1, *range(rank - 1))


class Reading:
    """The graph that a file becomes, as far as it was read."""

    def __init__(self, path: Path, model: Any) -> None:
        self.path, self.model, self.onnx = path, model, load_onnx()
        self.builder = Builder(model.graph.name or path.stem)
        self.ops: dict[str, tuple[Op, tuple[str, ...]]] = {}
        self.weights: Weights = {}
        self.fixed_batch: int | None = None
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Array] = {
            each.name: onnx_array(self.onnx, each, path) for each in model.graph.initializer
        }
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(output.name for output in model.graph.output)

    @property
    def batch(self) -> int:
        """What shapes of the file are worked out with: 1 where its batch is open, as each image goes its own way."""
        return self.fixed_batch or 1

    @property
    def opset(self) -> int:
        return next(int(each.version) for each in self.model.opset_import if each.domain in ("", "ai.onnx"))

    def name(self, wanted: str) -> str:
        """A node name that every backend takes: letters, digits, - and _, unlike those before."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted.removesuffix("_output_0")).strip("_-") or "node"
        return next(name for n in range(1, 10**6) if (name := stem if n == 1 else f"{stem}_{n}") not in self.ops)

    def add(self, name: str, op: Op, *inputs: str) -> str:
        self.builder.add(name, op, *inputs)
        self.ops[name] = (op, inputs)
        return name

    def shape(self, value: Value) -> Shape:
        """Shape of the file's tensor without the batch axis, padding left out."""
        ours = self.builder.shape(value.node)
        return tuple(ours[axis] for axis in value.axes)

    def flat(self, value: Value, name: str) -> Value:
        """A vector of ours where the file has one and ours still has axes of size 1 before the channels."""
        if len(value.axes) == 1 and len(self.builder.shape(value.node)) > 1:
            return replace(value, node=self.add(self.name(name), Flatten(), value.node), axes=(0,))
        return value

    def graph(self, outputs: list[str]) -> Graph:
        """What was read; operations may have gained a bias since they were added."""
        builder = Builder(self.model.graph.name or self.path.stem)
        for name, (op, inputs) in self.ops.items():
            builder.add(name, op, *inputs)
        return builder.graph(*outputs)


def onnx_array(onnx: Any, tensor: Any, path: Path) -> Array:
    """An initialiser's values. Raises DataError where they do not fill its shape."""
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: weight {tensor.name!r} cannot be read ({error}); export the file again") from error


class Call:
    """One node of the file: its inputs and attributes, and a way to refuse it by name."""

    def __init__(self, reading: Reading, node: Any) -> None:
        self.reading, self.node = reading, node
        found = {each.name: reading.onnx.helper.get_attribute_value(each) for each in node.attribute}
        self.attributes: dict[str, Any] = {
            key: each.decode() if isinstance(each, bytes) else each for key, each in found.items()
        }

    def refuse(self, why: str) -> NoReturn:
        """Raise DataError: the file, the node, its operation, the reason."""
        raise DataError(f"{self.reading.path}: node {self.called!r} ({self.node.op_type}): {why}")

    @property
    def called(self) -> str:
        return str(self.node.name or self.node.output[0])

    def require(self, condition: bool, why: str) -> None:
        if not condition:
            self.refuse(why)

    def given(self, place: int) -> bool:
        """Whether the node has an input there; optional ones may be left out or empty."""
        return place < len(self.node.input) and bool(self.node.input[place])

    def constant(self, place: int) -> Array | None:
        """Values of an input that the file stores, None where it is left out."""
        if not self.given(place):
            return None
        name = self.node.input[place]
        if name not in self.reading.constants:
            self.refuse(f"{name!r} is computed or fed, expected a stored weight; export with the weights in the file")
        return self.reading.constants[name]

    def axes(self, place: int) -> list[int] | None:
        """Axes that an input or, before opset 13, an attribute names; None where neither does."""
        stored = self.constant(place)
        named = self.attributes.get("axes") if stored is None else stored.tolist()
        return None if named is None else [int(axis) for axis in named]

    def weight(self, place: int) -> npt.NDArray[np.float32]:
        """A stored float32 weight. Refuses one that is left out or of another type."""
        values = self.constant(place)
        if values is None or values.dtype != np.float32:
            kind = "nothing" if values is None else values.dtype
            self.refuse(f"expected float32 weights as its input {place}, received {kind}")
        return values.astype(np.float32)

    def value(self, place: int = 0, *, padded: bool = False) -> Value:
        """A tensor in whatever layout; padded: whether the caller takes in padding that waits."""
        value = self.reading.values.get(self.node.input[place])
        if value is None:
            self.refuse(f"its input {place} is a stored constant, expected a tensor of the network")
        if value.padding and not padded:
            self.refuse("reads the result of Pad, which is supported before Conv and pooling alone")
        return value

    def image(self, place: int = 0, *, padded: bool = False) -> Value:
        """A tensor that is channels first and has spatial axes."""
        value = self.value(place, padded=padded)
        rank = len(self.reading.builder.shape(value.node))
        if rank < 2 or value.axes != standard(rank):
            self.refuse("expected a tensor of (N, C, *spatial), received a flattened or transposed one")
        return value

    def channels_second(self, place: int = 0) -> Value:
        """A tensor whose second axis is the channels."""
        value = self.value(place)
        if value.axes[0] != len(self.reading.builder.shape(value.node)) - 1:
            self.refuse("expected channels as the tensor's second axis, received a transposed one")
        return value

    def spatial(self, value: Value) -> Shape:
        return self.reading.builder.shape(value.node)[:-1]

    def emit(self, op: Op, *inputs: Value, weights: dict[str, Array] | None = None, like: Value | None = None) -> Value:
        """Add our operation for this node; its result has the layout of `like`, else of the first input."""
        reading = self.reading
        output = self.node.output[0]
        wanted = self.node.name if output.isdecimal() and self.node.name else output
        name = reading.name(wanted)
        try:
            reading.add(name, op, *(value.node for value in inputs))
        except ShapeError as error:
            self.refuse(str(error).partition(f"node {name!r}: ")[2])
        for key, values in (weights or {}).items():
            reading.weights[name, key] = np.ascontiguousarray(values, np.float32)
        return self.keep(replace(like or inputs[0], node=name, padding=NOTHING))

    def keep(self, value: Value) -> Value:
        """The node's result is this value."""
        self.reading.values[self.node.output[0]] = value
        return value

    def reorder(self, value: Value, weights: Array) -> Array:
        """Weights along the file's flattened axis (their first) in our order."""
        if value.places is None:
            return weights
        ours = np.empty_like(weights)
        ours[value.places] = weights
        return ours

    def per_channel(self, value: Value, constant: Array) -> Array | None:
        """A constant that the file broadcasts to a tensor, as (C,); None where it differs along other axes."""
        shape = (1,) * (1 + len(value.axes) - constant.ndim) + constant.shape
        last = len(self.reading.builder.shape(value.node)) - 1
        if len(shape) != 1 + len(value.axes) or last not in value.axes:
            return None
        channel = 1 + value.axes.index(last)
        channels = self.reading.shape(value)[channel - 1]
        if math.prod(shape) != shape[channel] or shape[channel] not in (1, channels):
            return None
        return np.broadcast_to(constant.reshape(-1), (channels,))

    def bias_into(self, value: Value, bias: Array) -> bool:
        """Give a constant a channel to the linear operation before, where it has no bias and feeds this node alone."""
        reading, (op, inputs) = self.reading, self.reading.ops[value.node]
        channels = self.per_channel(value, bias)
        source = next(each for each in self.node.input if each in reading.values)
        if channels is None or not isinstance(op, Conv | ConvTranspose | Dense) or op.bias or reading.uses[source] > 1:
            return False
        reading.ops[value.node] = (replace(op, bias=True), inputs)
        reading.weights[value.node, "bias"] = channels.astype(np.float32)
        return True
