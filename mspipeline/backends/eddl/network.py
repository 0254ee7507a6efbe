"""A graph realised in EDDL: its layers by node, where its weights are held, and where threads may collide in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.network.graph import Graph, Node

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slot:
    """Where the library holds one array of weights.

    index: among the layer's parameters, and its gradients. shape, order: what the array is split into and how its axes
    are transposed to be ours; what the array has beyond `shape` is padding. voxels: the library divides the gradient by
    so many times the images; 0 where it is right.
    """

    layer: Any
    index: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    voxels: int = 0

    def ours(self, held: FloatArray) -> FloatArray:
        """A view of the library's array in our layout."""
        return held.reshape(self.shape).transpose(self.order)

    def theirs(self, values: FloatArray, held: FloatArray) -> FloatArray:
        """An array of ours in the library's layout, of `held`'s shape."""
        return np.ascontiguousarray(values.transpose(np.argsort(self.order))).reshape(held.shape)

    @property
    def values(self) -> FloatArray:
        """The library's own array, for writing."""
        return self._own(self.layer.params)

    def gradient(self, images: int) -> FloatArray:
        """The library's array of gradients, corrected, of a batch of so many images."""
        held = self._own(self.layer.gradients)
        return held * np.float32(images * self.voxels) if self.voxels else held

    def _own(self, arrays: Any) -> FloatArray:
        held: FloatArray = np.asarray(arrays[self.index])
        return held[: self.shape[0]] if held.ndim == 1 else held


@dataclass
class Realisation:
    """A graph as EDDL layers. tensors: the layer that gives each node's result. slots: of each weight.

    ones: an input, one 1 per image, from which learned values reach every image; None where there are none.
    masks: an input for each dropout, what it multiplies by. threads: of the library's loops; racing: the nodes in whose
    training step as many threads would add to one number at once, unlocked.
    """

    eddl: Any
    graph: Graph
    threads: int
    tensors: dict[str, Any] = field(default_factory=dict)
    slots: dict[tuple[str, str], Slot] = field(default_factory=dict)
    ones: Any = None
    masks: dict[str, Any] = field(default_factory=dict)
    racing: list[str] = field(default_factory=list)

    def keep(
        self,
        node: Node,
        name: str,
        layer: Any,
        index: int,
        shape: Sequence[int],
        order: Sequence[int],
        voxels: int = 0,
    ) -> None:
        """Remember where a weight is, as `Slot` has it."""
        self.slots[node.name, name] = Slot(layer, index, tuple(shape), tuple(order), voxels)

    def learned(self, node: Node, name: str, shape: Sequence[int], order: Sequence[int]) -> Any:
        """Learned values of this shape, channels first, the same for every image: a dense layer of the constant 1."""
        if self.ones is None:
            self.ones = self.eddl.Input([1])
        layer = self.eddl.Dense(self.ones, math.prod(shape), False)
        self.keep(node, name, layer, 0, shape, order)
        return self.eddl.Reshape(layer, list(shape))
