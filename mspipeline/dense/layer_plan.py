"""The plan of a dense tile: how layers are put together from border classes, and where each class's map is needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mspipeline.dense.border_classes import Layer, Terms, axis_layers, separate, shared
from mspipeline.errors import ShapeError
from mspipeline.network import ops
from mspipeline.network.graph import Graph, Node
from mspipeline.network.ops import Shape

AXES = range(3)
ONES = (1, 1, 1)
ADD_MACS = 150
"""Multiply-accumulates that take as long as adding one value to another in memory (TensorFlow and PyTorch, 2 cores)."""

Range = tuple[int, int]
"""First and one past the last place along an axis."""
Name = TypeVar("Name")


@dataclass(frozen=True)
class LayerPlan:
    """All that a tile of one size fixes, by node of the patch graph and, in lists of three, by axis.

    layers: its border classes. terms: how a convolution is put together. steps: the distance between neighbouring
    positions of what a node is given; where it is above 1, phases are split first. sizes: the tile's there.
    ranges: of each class, the places where its map is needed; place w + p is position p of the w-th patch.
    """

    layers: list[dict[str, Layer]]
    terms: dict[str, tuple[Terms, ...]]
    steps: dict[str, Shape]
    sizes: dict[str, Shape]
    ranges: list[dict[str, dict[int, Range]]]


def tile_multiples(graph: Graph) -> Shape:
    """What the sides of a tile must be multiples of: the voxels between those that share all phases."""
    return _steps(graph)[1][graph.nodes[-1].name]


def plan(graph: Graph, tile: Shape) -> LayerPlan:
    """The plan of a tile. Raises ShapeError where the network has no dense form, or the tile's sides do not fit."""
    layers = [axis_layers(graph, axis) for axis in AXES]
    steps, divisors = _steps(graph)
    multiples = tile_multiples(graph)
    if any(size < 1 or size % multiple for size, multiple in zip(tile, multiples, strict=True)):
        raise ShapeError(f"a tile of {tile} voxels for {graph.name}; expected multiples of {multiples}")
    sizes = {
        name: tuple(size // each for size, each in zip(tile, divisor, strict=True))
        for name, divisor in divisors.items()
    }
    terms = {node.name: _cheapest(graph, node, layers) for node in graph if isinstance(node.op, ops.Conv)}
    ranges = [_ranges(graph, axis, layers[axis], terms, steps, sizes) for axis in AXES]
    return LayerPlan(layers, terms, steps, sizes, ranges)


def _steps(graph: Graph) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """By node: the steps of `LayerPlan`, and by what phases have divided the tile up to its result."""
    step: Shape = ONES
    divisor: Shape = ONES
    steps: dict[str, Shape] = {}
    divisors: dict[str, Shape] = {}
    for node in graph:
        steps[node.name] = step
        if isinstance(node.op, ops.Conv | ops.MaxPool):
            divisor = tuple(a * b for a, b in zip(divisor, step, strict=True))
            step = node.op.stride if isinstance(node.op, ops.MaxPool) else ONES
        divisors[node.name] = divisor
    return steps, divisors


def _cheapest(graph: Graph, node: Node, layers: Sequence[Mapping[str, Layer]]) -> tuple[Terms, ...]:
    """How to put a convolution together along each axis: classes apart, or with a part that they share."""
    choices = [(separate(axis[node.name]), shared(axis[node.name])) for axis in layers]
    channels = graph.input_shapes(node)[0][-1]

    def price(choice: Sequence[Terms]) -> int:
        products, adds = math.prod(each.products for each in choice), 0
        for axis in AXES:
            others = (
                *(len(each.of_class) for each in choice[:axis]),
                *(len(each.terms) for each in choice[axis + 1 :]),
            )
            adds += math.prod(others) * sum(len(each) - 1 for each in choice[axis].of_class)
        return products * channels + adds * ADD_MACS

    return min(itertools.product(*choices), key=price)


def _ranges(
    graph: Graph,
    axis: int,
    layers: Mapping[str, Layer],
    terms: Mapping[str, Sequence[Terms]],
    steps: Mapping[str, Shape],
    sizes: Mapping[str, Shape],
) -> dict[str, dict[int, Range]]:
    """The ranges of `LayerPlan` along one axis, from the last layer back to the input."""
    spatial = [node for node in graph if node.name in layers]
    flat = next(node.name for node in graph if isinstance(node.op, ops.Flatten))
    wanted: dict[int, Range] = {}
    for position, found in enumerate(layers[spatial[-1].name].class_of):
        if found is not None:
            first = steps[flat][axis] * position
            widen(wanted, found, (first, first + sizes[flat][axis]))
    ranges = {spatial[-1].name: wanted}
    for below, node in zip(spatial[-2::-1], spatial[:0:-1], strict=True):
        read: dict[int, Range] = {}
        if isinstance(node.op, ops.Conv):
            own = terms[node.name][axis]
            for term, span in zip(own.terms, spans(own, wanted), strict=True):
                for source in term.sources:
                    for found in (source.plus, source.minus):
                        if found is not None:
                            widen(read, found, read_by_tap(node.op, axis, source.tap, span))
        else:
            for number, taps in enumerate(layers[node.name].taps):
                for tap, found in enumerate(taps):
                    if found is not None:
                        widen(read, found, (wanted[number][0] + tap, wanted[number][1] + tap))
        step = steps[node.name][axis]
        wanted = {found: (low * step, high * step) for found, (low, high) in read.items()}
        ranges[below.name] = wanted
    return ranges


def spans(terms: Terms, wanted: Mapping[int, Range]) -> list[Range]:
    """Where each term is needed: where one of its classes is."""
    found: dict[int, Range] = {}
    for number, addends in enumerate(terms.of_class):
        for term in addends:
            widen(found, term, wanted[number])
    return [found[number] for number in range(len(terms.terms))]


def read_by_tap(op: ops.Conv, axis: int, tap: int, span: Range) -> Range:
    """What a convolution's tap reads for a range of results."""
    shift = tap * op.dilation[axis] - op.padding[axis][0]
    return span[0] + shift, span[1] + shift


def widen(ranges: dict[Name, Range], name: Name, span: Range) -> None:
    """Make the range of `name` reach over `span`, too."""
    low, high = ranges.get(name, span)
    ranges[name] = (min(low, span[0]), max(high, span[1]))
