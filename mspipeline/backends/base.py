"""Backend: one framework that realises a graph, trains it and predicts with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mspipeline.errors import BackendError
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Op
from mspipeline.network.weights import Weights

FloatArray = npt.NDArray[np.float32]
State = dict[str, npt.NDArray[np.generic]]
"""What a backend needs beside the weights to go on exactly: optimiser moments, step count, random generators."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1): epsilon is added outside the root, moments are bias-corrected."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7


@dataclass(frozen=True)
class Execution:
    """Where and how a backend computes. threads: at least 1. seed: of dropout; weights come from outside."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """loss: mean over the batch, before the step's update. probability: (N, H, W, 1) of the same forward pass."""

    loss: float
    probability: FloatArray


class Backend(ABC):
    """A framework with one network in it.

    Images are (N, H, W, C) float32, masks (N, H, W, 1) float32 in {0, 1}; the last batch of an epoch may be smaller.
    """

    name: ClassVar[str]
    operations: ClassVar[frozenset[type[Op]]]

    @classmethod
    def unsupported(cls, graph: Graph) -> list[str]:
        """The nodes that this backend cannot realise, as `node (operation)`; known without loading the framework."""
        return [f"{node.name} ({type(node.op).__name__})" for node in graph if type(node.op) not in cls.operations]

    @classmethod
    def check(cls, graph: Graph) -> None:
        """Raise BackendError naming the nodes, where the graph cannot be realised."""
        if nodes := cls.unsupported(graph):
            raise BackendError(f"{cls.name} cannot realise {graph.name}: {', '.join(nodes)}; choose another backend")

    @abstractmethod
    def build(self, graph: Graph, execution: Execution) -> None:
        """Realise the graph for prediction; weights are the framework's own until `set_weights`."""

    @abstractmethod
    def compile(self, loss: Literal["bce", "dice"], optimiser: Adam) -> None:
        """Make the built network ready to train. Losses are those of `training.losses`."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The device in use, as the framework names it, e.g. `CPU` or `GPU: Tesla T4`."""

    @abstractmethod
    def train_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        """One forward and backward pass and one update."""

    @abstractmethod
    def evaluate_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        """One forward pass in inference mode, with its loss."""

    @abstractmethod
    def predict(self, images: FloatArray) -> FloatArray:
        """(N, H, W, 1) probabilities in inference mode."""

    @abstractmethod
    def weights(self) -> Weights:
        """A copy of every weight by (node, name)."""

    @abstractmethod
    def set_weights(self, weights: Weights) -> None:
        """Take these weights. Raises ShapeError where they are another graph's."""

    @abstractmethod
    def state(self) -> State:
        """A copy of the optimiser's and the random generators' state."""

    @abstractmethod
    def set_state(self, state: State) -> None:
        """Go on from `state`, exactly. Raises ShapeError where it is another network's."""
