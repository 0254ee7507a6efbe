"""Graph: a network as data, before any framework is loaded.

>>> from mspipeline.network.ops import Input, Relu
>>> builder = Builder("tiny")
>>> x = builder.add("image", Input((4, 4, 1)))
>>> graph = builder.graph(builder.add("out", Relu(), x))
>>> graph["out"].shape
(4, 4, 1)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mspipeline.errors import DataError, ShapeError, SuiteError
from mspipeline.files import sha256_data
from mspipeline.network import ops
from mspipeline.network.ops import Dropout, Input, Op, Shape, WeightSpec

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Node:
    """One operation at its place. inputs: names of earlier nodes. shape: of its result, without the batch axis."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can be computed, and which of them are the outputs."""

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if isinstance(node.op, Input))

    def input_shapes(self, node: Node) -> list[Shape]:
        """Shapes of what a node receives."""
        return [self[name].shape for name in node.inputs]

    def weights(self) -> dict[tuple[str, str], WeightSpec]:
        """Every array of weights by (node, name), in the graph's order."""
        return {
            (node.name, name): spec
            for node in self.nodes
            for name, spec in node.op.weights(self.input_shapes(node)).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data: the whole graph, arguments in full."""
        return {
            "schema_version": SCHEMA_VERSION,
            "nodes": [{"name": node.name, "inputs": list(node.inputs), **node.op.to_json()} for node in self.nodes],
            "outputs": list(self.outputs),
        }

    @classmethod
    def from_json(cls, document: Any, *, name: str, where: str) -> Graph:
        """The graph that `to_json` wrote. where: names its source in the error line. Raises DataError."""
        try:
            if document["schema_version"] != SCHEMA_VERSION:
                raise DataError(f"schema version {document['schema_version']}, expected {SCHEMA_VERSION}")
            builder = Builder(name)
            for entry in document["nodes"]:
                arguments = {key: _tuples(value) for key, value in entry.items() if key not in ("op", "name", "inputs")}
                kind = getattr(ops, entry["op"]) if entry["op"] in ops.__all__ else None
                if not (isinstance(kind, type) and issubclass(kind, Op)):
                    raise DataError(f"node {entry['name']!r}: no operation is called {entry['op']!r}")
                builder.add(entry["name"], kind(**arguments), *entry["inputs"])
            if unknown := [each for each in document["outputs"] if each not in builder.names]:
                raise DataError(f"output {unknown[0]!r} is none of its nodes")
            return builder.graph(*document["outputs"])
        except (KeyError, TypeError, ValueError, AttributeError, SuiteError) as error:
            raise DataError(f"{where}: not a graph that this version can read ({error})") from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the graph; its display name does not enter."""
        return sha256_data(self.to_json())


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that operations hold."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Builder:
    """Collects nodes; shapes are inferred and checked as each is added."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: dict[str, Node] = {}

    def add(self, name: str, op: Op, *inputs: str) -> str:
        """Append a node and return its name. Raises ShapeError where the operation does not fit its inputs."""
        if name in self._nodes:
            raise ShapeError(f"{self._name}: two nodes named {name!r}; names must be unique")
        try:
            shape = op.output_shape([self._nodes[source].shape for source in inputs])
        except ShapeError as error:
            raise ShapeError(f"{self._name}: node {name!r}: {error}") from None
        self._nodes[name] = Node(name, op, inputs, shape)
        return name

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes that were added."""
        return tuple(self._nodes)

    def shape(self, name: str) -> Shape:
        """Shape of a node that was added, without the batch axis."""
        return self._nodes[name].shape

    def graph(self, *outputs: str) -> Graph:
        """The finished graph with these outputs."""
        return Graph(self._name, tuple(self._nodes.values()), outputs)


def without_dropout(graph: Graph) -> Graph:
    """The same nodes and weights with every dropout rate 0: training mode without chance, for comparing backends."""
    nodes = tuple(replace(node, op=Dropout(0.0)) if isinstance(node.op, Dropout) else node for node in graph)
    return replace(graph, nodes=nodes)
