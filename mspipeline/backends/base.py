"""Backend: one framework that realises a graph, trains it and predicts with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mspipeline.backends.process_group import ALONE, ProcessGroup
from mspipeline.errors import BackendError, ConfigError
from mspipeline.losses import Loss
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Op, Sigmoid
from mspipeline.network.weights import Weights
from mspipeline.optimizers import Optimizer

FloatArray = npt.NDArray[np.float32]
State = dict[str, npt.NDArray[np.generic]]
"""What a backend needs beside the weights to go on exactly: optimizer moments, step count, random generators."""


@dataclass(frozen=True)
class Execution:
    """Where and how a backend computes.

    threads: at least 1. seed: of dropout; weights come from outside. memory: PyEDDL's level, with no effect elsewhere.
    group: the processes that train the network together.
    """

    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 1
    seed: int = 0
    memory: Literal["low_mem", "mid_mem", "full_mem"] = "mid_mem"
    group: ProcessGroup = ALONE


@dataclass(frozen=True)
class StepResult:
    """loss: of the joint batch, before the step's update. probability: (N, *shape) of the same forward pass."""

    loss: float
    probability: FloatArray


@dataclass(frozen=True)
class Trace:
    """What a certificate compares. Nothing is updated by it.

    activations: of the asked nodes, (N, *shape) channels last, in inference mode.
    loss, gradients: of one pass in training mode, by every trainable weight.
    """

    activations: dict[str, FloatArray]
    loss: float
    gradients: Weights


class Backend(ABC):
    """A framework with one network in it.

    Images are (N, *spatial, C) float32. Masks are float32 of the first output's shape: (N, *spatial, 1) in {0, 1}
    beside one probability a voxel, one-hot (N, *spatial, classes) or (N, classes) beside several classes. A graph of
    several outputs is trained on the masks at every n-th voxel for an output n times as coarse; steps return the first
    output. The last batch of an epoch may be smaller.

    In a group of processes, all take the same steps and ask for `state`, `gather` and `trace` together. Images and
    masks are then this process's share of a joint batch, as large as every other's, or, with `replicated`, the batch
    itself.
    Raises PeersLost where the others do not answer.
    """

    name: ClassVar[str]
    operations: ClassVar[frozenset[type[Op]]]
    can_train: ClassVar[bool] = True
    """Whether it can train; one that only predicts raises BackendError in `compile` and all that follows it."""
    supports_data_parallel: ClassVar[bool] = False
    """Whether several processes can train one network with it; one that cannot takes no group."""

    @classmethod
    def resumes_exactly(cls, graph: Graph) -> bool:
        """Whether going on from `weights` and `state` equals never having stopped, to the last bit."""
        return True

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
        """Realise the graph for prediction; weights have no meaning until `set_weights`."""

    @abstractmethod
    def compile(self, loss: Loss, optimizer: Optimizer) -> None:
        """Make the built network ready to train. Raises BackendError where it cannot have this loss."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The device in use, as the framework names it, e.g. `CPU` or `GPU: Tesla T4`."""

    @abstractmethod
    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        """One forward and backward pass and one update. rate: the learning rate of this step; None: the optimizer's."""

    @abstractmethod
    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        """One forward pass in inference mode, with its loss."""

    @abstractmethod
    def predict(self, images: FloatArray) -> FloatArray:
        """(N, *shape) of the first output in inference mode."""

    @abstractmethod
    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        """Activations of these nodes, loss and gradients of the compiled network; weights and state stay as they are.

        Dropout is not switched off: trace a graph without it (`network.graph.without_dropout`).
        """

    @abstractmethod
    def weights(self) -> Weights:
        """A copy of every weight by (node, name)."""

    @abstractmethod
    def set_weights(self, weights: Weights) -> None:
        """Take these weights. Raises ShapeError where they are another graph's."""

    @abstractmethod
    def state(self) -> State:
        """A copy of the optimizer's and the random generators' state."""

    @abstractmethod
    def set_state(self, state: State) -> None:
        """Go on from `state`, exactly. Raises ShapeError where it is another network's."""

    def gather(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """(processes, *shape): the values of every process, by rank; of the same shape and type on each."""
        return values[None]


def loss_nodes(graph: Graph, loss: Loss) -> tuple[str, ...]:
    """The nodes whose values a loss takes: the graph's outputs, or what the last sigmoid is given.

    Raises ConfigError where the loss wants the logits of a sigmoid and the network does not end in one.
    """
    if not loss.of_sigmoid_logits:
        return tuple(graph.outputs)
    last = graph[graph.outputs[0]]
    if not isinstance(last.op, Sigmoid):
        raise ConfigError(
            f"loss {loss.name} needs a network that ends in a sigmoid, {graph.name} ends in {type(last.op).__name__}"
        )
    return last.inputs
