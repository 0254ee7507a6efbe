"""What a graph costs, from its shapes alone: parameters, multiply-accumulates, bytes of activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mspipeline.network.graph import Graph
from mspipeline.network.ops import Shape

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class NodeCost:
    """Of one node, for one image: numbers of weights, multiply-accumulates of the forward pass, bytes of its result."""

    name: str
    op: str
    shape: Shape
    trainable: int
    non_trainable: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Cost:
    """Of a whole graph; `nodes` has the parts."""

    nodes: tuple[NodeCost, ...]

    @property
    def trainable(self) -> int:
        return sum(node.trainable for node in self.nodes)

    @property
    def non_trainable(self) -> int:
        return sum(node.non_trainable for node in self.nodes)

    @property
    def total(self) -> int:
        return self.trainable + self.non_trainable

    @property
    def macs(self) -> int:
        return sum(node.macs for node in self.nodes)

    def activation_bytes(self, batch_size: int) -> int:
        """Bytes of every node's float32 result for a batch: what training keeps if nothing is recomputed or shared."""
        return batch_size * sum(node.activation_bytes for node in self.nodes)


def cost(graph: Graph) -> Cost:
    """The cost of a graph, node by node."""
    rows = []
    for node in graph:
        inputs = graph.input_shapes(node)
        specs = node.op.weights(inputs).values()
        rows.append(
            NodeCost(
                node.name,
                type(node.op).__name__,
                node.shape,
                sum(spec.size for spec in specs if spec.trainable),
                sum(spec.size for spec in specs if not spec.trainable),
                node.op.macs(inputs),
                FLOAT32_BYTES * math.prod(node.shape),
            )
        )
    return Cost(tuple(rows))
