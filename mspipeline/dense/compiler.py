"""Dense: a network on patches as one on tiles with the same answer at every voxel, sharing what patches share.

`tile_program` walks the patch graph and writes down another graph, of our own operations, that any backend which has
them builds and runs. Every layer becomes the maps of its border classes (`border_classes`). After a pooling of stride s
the s^3 grids of pooled voxels are images of a batch (`SplitPhases`), so that what follows stays an ordinary
convolution; at the end they are joined again.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.dense.border_classes import Source, Term, Terms
from mspipeline.dense.layer_plan import AXES, ONES, LayerPlan, Range, plan, read_by_tap, spans, widen
from mspipeline.network import ops
from mspipeline.network.graph import Builder, Graph, Node
from mspipeline.network.ops import Shape
from mspipeline.network.ops.tiling import Crop, JoinPhases, SplitPhases, Subtract
from mspipeline.network.weights import Weights

NOTHING = ((0, 0), (0, 0), (0, 0))
FLOAT32_BYTES = 4

Box = tuple[Range, ...]
Key = tuple[int | None, ...]
"""By axis, which class."""
Selected = tuple[int, int | None]
"""Along one axis the map of a class, less that of another where there is one."""
Kernel = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TileProgram:
    """A graph for tiles, its weights, and what of the volume it reads.

    tile: voxels along each axis of the answer, (*tile, classes). reads: the voxels of the input along each axis, first
    and one past the last, counted from the first voxel of the patch around the tile's first voxel. macs: of one tile.
    live_bytes: of the results that are held at once, at most, where each is dropped after its last use.
    """

    graph: Graph
    weights: Weights
    tile: Shape
    reads: Box
    macs: int
    live_bytes: int


@dataclass(frozen=True)
class Map:
    """A node and where its values lie, by axis."""

    name: str
    box: Box


def tile_program(graph: Graph, weights: Weights, tile: Shape) -> TileProgram:
    """The dense form of a network on patches. Raises ShapeError where it has none, or the tile's sides do not fit."""
    lowering = _Lowering(graph, weights, plan(graph, tile))
    output, reads = lowering.walk()
    program, images = lowering.builder.graph(output), lowering.images_of
    macs = sum(images[node.name] * node.op.macs(program.input_shapes(node)) for node in program)
    return TileProgram(program, lowering.weights, tile, reads, macs, _live_bytes(program, images))


def _live_bytes(program: Graph, images: Mapping[str, int]) -> int:
    left = Counter(source for node in program for source in node.inputs)
    sizes = {node.name: FLOAT32_BYTES * images[node.name] * math.prod(node.shape) for node in program}
    held = most = 0
    for node in program:
        held += sizes[node.name]
        most = max(most, held)
        left.subtract(node.inputs)
        held -= sum(sizes[source] for source in set(node.inputs) if not left[source])
    return most


class _Lowering:
    """Collects the nodes of one tile's graph, their weights and, by node, the images that one became."""

    def __init__(self, graph: Graph, weights: Weights, plan: LayerPlan) -> None:
        self._graph, self._given, self._plan = graph, weights, plan
        self.builder = Builder(f"{graph.name}_tile")
        self.weights: Weights = {}
        self.images_of: dict[str, int] = {}
        self._images = 1

    def walk(self) -> tuple[str, Box]:
        """Add everything; the output's name, and the box of the input."""
        (first,) = self._graph.inputs
        reads = tuple(ranges[first.name][0] for ranges in self._plan.ranges)
        size = (high - low for low, high in reads)
        maps: dict[Key, Map] = {(0, 0, 0): Map(self._add(first.name, ops.Input((*size, first.shape[-1]))), reads)}
        output, splits = "", []
        follower = {node.inputs[0]: node for node in self._graph.nodes[1:]}
        for node in self._graph.nodes[1:]:
            op, step = node.op, self._plan.steps[node.name]
            if isinstance(op, ops.Conv | ops.MaxPool) and max(step) > 1:
                splits.append(step)
                maps = self._split(node, maps, step)
            if isinstance(op, ops.Dropout) or (isinstance(op, ops.BatchNorm) and self._folds(node)):
                continue
            if output:
                output = self._copy(node, node.name, output)
            elif isinstance(op, ops.Conv):
                maps = self._conv(node, op, follower.get(node.name), maps)
            elif isinstance(op, ops.MaxPool):
                maps = self._pool(node, maps)
            elif isinstance(op, ops.Flatten):
                output = self._flatten(node, maps)
            else:
                maps = {
                    key: Map(self._copy(node, _named(node.name, key), each.name), each.box)
                    for key, each in maps.items()
                }
        for number, step in reversed(list(enumerate(splits))):
            self._images //= math.prod(step)
            output = self._add(f"join{number}", JoinPhases(step), output)
        return output, reads

    def _folds(self, node: Node) -> bool:
        """Whether a normalisation is in the weights of the convolution before it."""
        return isinstance(self._graph[node.inputs[0]].op, ops.Conv)

    def _add(self, name: str, op: ops.Op, *inputs: str) -> str:
        self.images_of[name] = self._images
        return self.builder.add(name, op, *inputs)

    def _copy(self, node: Node, name: str, source: str) -> str:
        """A node of the patch graph as it is, with its weights."""
        for key in node.op.weights(self._graph.input_shapes(node)):
            self.weights[name, key] = self._given[node.name, key]
        return self._add(name, node.op, source)

    def _cropped(self, source: Map, box: Box) -> str:
        """What a map has in a box inside its own."""
        if source.box == box:
            return source.name
        start = tuple(low - own for (low, _), (own, _) in zip(box, source.box, strict=True))
        size = tuple(high - low for low, high in box)
        name = f"{source.name}_at{'_'.join(map(str, (*start, *size)))}"
        return name if name in self.images_of else self._add(name, Crop(start, size), source.name)

    def _split(self, node: Node, maps: Mapping[Key, Map], step: Shape) -> dict[Key, Map]:
        """The maps below a node, their phases as images."""
        self._images *= math.prod(step)
        return {
            key: Map(
                self._add(_named(f"{node.name}_phases", key), SplitPhases(step), each.name),
                tuple((low // s, high // s) for (low, high), s in zip(each.box, step, strict=True)),
            )
            for key, each in maps.items()
        }

    def _conv(self, node: Node, op: ops.Conv, after: Node | None, maps: Mapping[Key, Map]) -> dict[Key, Map]:
        """Its terms, and of these each class' sum."""
        kernel, bias = _folded(node, after, self._given)
        terms, ranges = self._plan.terms[node.name], [ranges[node.name] for ranges in self._plan.ranges]
        reach = [spans(each, own) for each, own in zip(terms, ranges, strict=True)]
        chosen = self._selected(node, op, maps, terms, reach)
        parts: dict[Key, Map] = {}
        for key in itertools.product(*(range(len(each.terms)) for each in terms)):
            own = [each.terms[number] for each, number in zip(terms, key, strict=True)]
            box = tuple(span[number] for span, number in zip(reach, key, strict=True))
            biased = bias if all(term.whole for term in own) else None
            parts[key] = Map(self._product(_named(node.name, key, "term"), op, own, box, chosen, kernel, biased), box)
        for axis in AXES:  # numbers of terms become those of classes, an axis at a time
            summed: dict[Key, Map] = {}
            for lay in _lines(parts, axis):
                for found, addends in enumerate(terms[axis].of_class):
                    box = _along(axis, parts[lay(addends[0])].box, ranges[axis][found])
                    names = [self._cropped(parts[lay(number)], box) for number in addends]
                    if len(names) > 1:
                        names = [self._add(_named(f"{node.name}_sum{axis}", lay(found)), ops.Add(), *names)]
                    summed[lay(found)] = Map(names[0], box)
            parts = summed
        return parts

    def _selected(
        self, node: Node, op: ops.Conv, maps: Mapping[Key, Map], terms: Sequence[Terms], reach: Sequence[list[Range]]
    ) -> dict[tuple[Selected, ...], Map]:
        """The maps that a convolution's terms read: those of classes, or along some axes two classes' difference."""
        found: dict[Any, Map] = dict(maps)
        for axis in AXES:
            wanted: dict[Selected, Range] = {}
            for term, span in zip(terms[axis].terms, reach[axis], strict=True):
                for source in term.sources:
                    widen(wanted, (source.plus, source.minus), read_by_tap(op, axis, source.tap, span))
            chosen: dict[Any, Map] = {}
            for number, lay in enumerate(_lines(found, axis)):
                for (plus, minus), span in wanted.items():
                    one = found[lay(plus)]
                    if minus is not None:
                        box = _along(axis, one.box, span)
                        both = [self._cropped(found[lay(each)], box) for each in (plus, minus)]
                        one = Map(self._add(f"{node.name}_less{axis}_{number}_{plus}_{minus}", Subtract(), *both), box)
                    chosen[lay((plus, minus))] = one
            found = chosen
        return found

    def _product(
        self,
        name: str,
        op: ops.Conv,
        terms: Sequence[Term],
        box: Box,
        chosen: Mapping[tuple[Selected, ...], Map],
        kernel: Kernel,
        bias: Kernel | None,
    ) -> str:
        """One convolution, of three terms. Taps side by side on one map stay a kernel, others become channels."""
        pieces, blocks = [], []
        for run in itertools.product(*map(_runs, terms)):
            first = (read_by_tap(op, axis, run[axis][0].tap, box[axis])[0] for axis in AXES)
            last = (read_by_tap(op, axis, run[axis][-1].tap, box[axis])[1] for axis in AXES)
            source = chosen[tuple((each[0].plus, each[0].minus) for each in run)]
            pieces.append(self._cropped(source, tuple(zip(first, last, strict=True))))
            taps = np.ix_(*([each.tap for each in run[axis]] for axis in AXES))
            blocks.append(kernel[taps] * math.prod(each[0].sign for each in run))
        joined = np.concatenate(blocks, axis=-2)
        source_name = pieces[0] if len(pieces) == 1 else self._add(f"{name}_joined", ops.Concat(), *pieces)
        size = joined.shape[:3]
        dilation = tuple(each if taps > 1 else 1 for each, taps in zip(op.dilation, size, strict=True))
        self.weights[name, "kernel"] = joined.astype(np.float32)
        if bias is not None:
            self.weights[name, "bias"] = bias.astype(np.float32)
        return self._add(name, ops.Conv(op.filters, size, ONES, dilation, NOTHING, bias is not None), source_name)

    def _pool(self, node: Node, maps: Mapping[Key, Map]) -> dict[Key, Map]:
        """Maxima along one axis after the other, one for every place: a step is taken when phases are split."""
        below = dict(maps)
        for axis in AXES:
            pooled: dict[Key, Map] = {}
            for lay in _lines(below, axis):
                for found, taps in enumerate(self._plan.layers[axis][node.name].taps):
                    low, high = self._plan.ranges[axis][node.name][found]
                    box = below[lay(taps[0])].box
                    names = [
                        self._cropped(below[lay(under)], _along(axis, box, (low + tap, high + tap)))
                        for tap, under in enumerate(taps)
                    ]
                    if len(names) > 1:
                        names = [self._add(_named(f"{node.name}_max{axis}", lay(found)), ops.Maximum(), *names)]
                    pooled[lay(found)] = Map(names[0], _along(axis, box, (low, high)))
            below = pooled
        return below

    def _flatten(self, node: Node, maps: Mapping[Key, Map]) -> str:
        """The channels of all positions of a patch side by side, in the order in which Flatten has them."""
        last = [each for each in self._graph if isinstance(each.op, ops.Conv | ops.MaxPool)][-1]
        step, size = self._plan.steps[node.name], self._plan.sizes[node.name]
        pieces = []
        for position in itertools.product(*map(range, last.shape[:3])):
            key = tuple(self._plan.layers[axis][last.name].class_of[position[axis]] for axis in AXES)
            box = tuple((s * p, s * p + n) for s, p, n in zip(step, position, size, strict=True))
            pieces.append(self._cropped(maps[key], box))
        return pieces[0] if len(pieces) == 1 else self._add(node.name, ops.Concat(), *pieces)


def _named(stem: str, key: Key, what: str = "class") -> str:
    return f"{stem}_{what}{'_'.join(map(str, key))}"


def _along(axis: int, box: Box, span: Range) -> Box:
    """The box with another range along one axis."""
    return (*box[:axis], span, *box[axis + 1 :])


def _lines(maps: Mapping[Any, Map], axis: int) -> Iterator[Callable[..., Key]]:
    """For every choice along the other axes: what puts a key together from one along this axis."""
    for rest in dict.fromkeys((*key[:axis], *key[axis + 1 :]) for key in maps):
        yield lambda own, rest=rest: (*rest[:axis], own, *rest[axis:])


def _runs(term: Term) -> list[tuple[Source, ...]]:
    """The sources as one kernel where they are side by side on one map, else each by itself."""
    first = term.sources[0]
    beside = tuple(replace(first, tap=first.tap + number) for number in range(len(term.sources)))
    return [term.sources] if term.sources == beside else [(source,) for source in term.sources]


def _folded(node: Node, after: Node | None, weights: Weights) -> tuple[Kernel, Kernel | None]:
    """Kernel and bias of a convolution with the normalisation that follows in them."""
    kernel = weights[node.name, "kernel"].astype(np.float64)
    own = weights.get((node.name, "bias"))
    bias = None if own is None else own.astype(np.float64)
    if after is None or not isinstance(after.op, ops.BatchNorm):
        return kernel, bias
    gamma, beta, mean, variance = (
        weights[after.name, name].astype(np.float64) for name in ("gamma", "beta", "mean", "variance")
    )
    scale = gamma / np.sqrt(variance + after.op.epsilon)
    return kernel * scale, ((0.0 if bias is None else bias) - mean) * scale + beta
