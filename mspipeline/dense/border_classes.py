"""Border classes: which positions of a patch see its border alike, along one axis, in every layer of a network.

Each convolution pads its patch with zeros, so that a value depends on how far it is from the patch's border: a plain
convolution of the whole volume is another network. But it does so in few ways. Let M be the values that a class of
positions has for every patch of a volume: position p of the patch whose first voxel is w has M[w + p], whatever p of
that class. Two positions are of one class where each tap of the layer's kernel finds the same class below it, or
nothing. A layer of a volume is then the maps of its classes, in three dimensions of every triple of them.

"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mspipeline.errors import ShapeError
from mspipeline.network import ops
from mspipeline.network.graph import Graph, Node

POINTWISE = (ops.BatchNorm, ops.Relu, ops.LeakyRelu, ops.PRelu, ops.Sigmoid, ops.Softmax, ops.Dropout)
"""Operations that do the same wherever a value is; PReLU only where its alphas are shared by the voxels."""


@dataclass(frozen=True)
class Layer:
    """One node along one axis. class_of: of each position, None where no later layer needs it.

    taps: of each class what each tap of the kernel or window finds below it, None beyond the patch's border.
    """

    class_of: tuple[int | None, ...]
    taps: tuple[tuple[int | None, ...], ...]


def obstacle(graph: Graph) -> str:
    """Why a network's values cannot be had from maps of classes; empty where they can."""
    if [len(node.shape) for node in graph.inputs] != [4]:
        return "it does not take patches of three axes"
    flattened = False
    for before, node in zip((None, *graph.nodes), graph.nodes, strict=False):
        op = node.op
        if (before is None) != isinstance(op, ops.Input) or (before and node.inputs != (before.name,)):
            return f"{node.name} is not one of a chain of operations"
        if before is None:
            continue
        if isinstance(op, ops.PRelu) and op.shared == "voxel" and not flattened:
            return f"{node.name} has an alpha for each voxel of a patch; train with prelu=channel to share them"
        if flattened or isinstance(op, POINTWISE):
            fits = isinstance(op, (*POINTWISE, ops.Dense))
        elif isinstance(op, ops.Conv):
            fits = set(op.stride) == {1}
        elif isinstance(op, ops.MaxPool):
            fits = not op.ceil and not any(map(any, op.padding))
        else:
            fits = isinstance(op, ops.Flatten)
        if not fits:
            return f"{node.name} ({type(op).__name__}) is not of a kind that is the same at every place"
        flattened = flattened or isinstance(op, ops.Flatten)
    return "" if flattened else "it has no Flatten, so it gives no single answer a patch"


def axis_layers(graph: Graph, axis: int) -> dict[str, Layer]:
    """The input's, and every convolution's and pooling's classes along one spatial axis, in the graph's order.

    Raises ShapeError where `obstacle` tells of one.
    """
    if problem := obstacle(graph):
        raise ShapeError(f"{graph.name}: no dense form: {problem}")
    spatial = [node for node in graph if isinstance(node.op, ops.Conv | ops.MaxPool)]
    sizes = [graph[node.inputs[0]].shape[axis] for node in spatial]
    needed = [set(range(spatial[-1].shape[axis]))]
    for node, size in zip(reversed(spatial), reversed(sizes), strict=True):
        below = {each for p in needed[0] for each in reached(node, axis, p)}
        needed.insert(0, below & set(range(size)))
    first = graph.inputs[0]
    found = {first.name: Layer(tuple(0 if p in needed[0] else None for p in range(first.shape[axis])), ((),))}
    below_classes: Sequence[int | None] = found[first.name].class_of
    for node, wanted in zip(spatial, needed[1:], strict=True):
        seen: dict[tuple[int | None, ...], int] = {}
        class_of: list[int | None] = []
        for p in range(node.shape[axis]):
            taps = tuple(below_classes[i] if 0 <= i < len(below_classes) else None for i in reached(node, axis, p))
            class_of.append(seen.setdefault(taps, len(seen)) if p in wanted else None)
        found[node.name] = Layer(tuple(class_of), tuple(seen))
        below_classes = class_of
    return found


def reached(node: Node, axis: int, position: int) -> Iterator[int]:
    """The positions below that a position's taps read; some may lie outside the patch."""
    op = node.op
    if isinstance(op, ops.Conv):
        first, taps, step = position - op.padding[axis][0], op.kernel[axis], op.dilation[axis]
    elif isinstance(op, ops.MaxPool):
        first, taps, step = position * op.stride[axis], op.size[axis], 1
    else:
        raise ShapeError(f"{node.name}: {type(op).__name__} has no taps")
    return iter(range(first, first + taps * step, step))


@dataclass(frozen=True)
class Source:
    """What one tap of a term multiplies: `sign` times the map of class `plus`, less that of `minus` where given."""

    tap: int
    plus: int
    minus: int | None = None
    sign: int = 1


@dataclass(frozen=True)
class Term:
    """A part of a convolution's result along one axis. whole: it has the bias; of a class's terms, one has it."""

    sources: tuple[Source, ...]
    whole: bool


@dataclass(frozen=True)
class Terms:
    """A convolution along one axis. of_class: of each class the terms whose sum it is, the whole one first."""

    terms: tuple[Term, ...]
    of_class: tuple[tuple[int, ...], ...]

    @property
    def products(self) -> int:
        """Taps that are multiplied, over all terms."""
        return sum(len(term.sources) for term in self.terms)


def separate(layer: Layer) -> Terms:
    """Every class by itself, from the taps that find something."""
    terms = (
        Term(tuple(Source(tap, found) for tap, found in enumerate(taps) if found is not None), whole=True)
        for taps in layer.taps
    )
    return Terms(tuple(terms), tuple((number,) for number in range(len(layer.taps))))


def shared(layer: Layer) -> Terms:
    """The full kernel on the map of the commonest class below, once for all classes, plus what each has otherwise.

    Where a tap finds another class, its product with the two maps' difference is added; where it finds nothing, its
    product with the commonest class's map is taken away. Classes that need as many products for that as for themselves
    stand alone.
    """
    counts = Counter(found for taps in layer.taps for found in taps if found is not None)
    base = counts.most_common(1)[0][0]
    everywhere = tuple(Source(tap, base) for tap in range(len(layer.taps[0])))
    terms = [Term(everywhere, whole=True)]
    of_class: list[tuple[int, ...]] = []
    for alone, taps in zip(separate(layer).terms, layer.taps, strict=True):
        others = tuple(
            Source(tap, base, sign=-1) if found is None else Source(tap, found, base)
            for tap, found in enumerate(taps)
            if found != base
        )
        if not others:
            of_class.append((0,))
            continue
        apart = len(others) >= len(alone.sources)
        of_class.append((len(terms),) if apart else (0, len(terms)))
        terms.append(alone if apart else Term(others, whole=False))
    return Terms(tuple(terms), tuple(of_class))
