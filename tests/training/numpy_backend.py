"""A backend of a few lines of NumPy: one 1x1 convolution to one probability, trained with its exact gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mspipeline.backends.base import Backend, Execution, FloatArray, State, StepResult, Trace
from mspipeline.losses import Loss
from mspipeline.network.graph import Graph
from mspipeline.network.ops import Conv, Input, Op, Sigmoid
from mspipeline.network.weights import Weights
from mspipeline.optimizers import Optimizer
from mspipeline.optimizers.numpy_steps import NumPySteps

KERNEL, BIAS = ("conv", "kernel"), ("conv", "bias")


class NumPyBackend(Backend):
    """p = sigmoid(x . kernel + bias) at each pixel. `rates` has the learning rate of every step so far."""

    name: ClassVar[str] = "numpy"
    operations: ClassVar[frozenset[type[Op]]] = frozenset({Input, Conv, Sigmoid})

    def build(self, graph: Graph, execution: Execution) -> None:
        """Weights are zero until `set_weights`; graph: `Input`, a 1x1 `Conv` with bias named `conv`, `Sigmoid`."""
        channels = graph["conv"].op.weights(graph.input_shapes(graph["conv"]))["kernel"].shape[-2]
        self._weights: Weights = {KERNEL: np.zeros((1, 1, channels, 1), np.float32), BIAS: np.zeros(1, np.float32)}
        self.rates: list[float | None] = []

    def compile(self, loss: Loss, optimizer: Optimizer) -> None:
        self._loss = loss
        self._updates = NumPySteps(optimizer, {"/".join(key): each.shape for key, each in self._weights.items()})

    @property
    def device(self) -> str:
        return "CPU"

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        trace, probability = self.trace(images, masks, ()), self.predict(images)
        named = {"/".join(key): gradient for key, gradient in trace.gradients.items()}
        self._updates.step(named, {"/".join(key): each for key, each in self._weights.items()}, rate)
        self.rates.append(rate)
        return StepResult(trace.loss, probability)

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        probability = self.predict(images)
        return StepResult(self._loss.of_arrays(masks, [probability]), probability)

    def predict(self, images: FloatArray) -> FloatArray:
        logits = images @ self._weights[KERNEL][0, 0] + self._weights[BIAS]  # (N,H,W,C) -> (N,H,W,1)
        probability: FloatArray = 1 / (1 + np.exp(-logits))
        return probability

    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        probability = self.predict(images)
        (gradient,) = self._loss.gradients(masks, [probability])
        of_logits = gradient * probability * (1 - probability)
        of_kernel = np.einsum("nhwc,nhwo->co", images, of_logits)[None, None].astype(np.float32)
        gradients = {KERNEL: of_kernel, BIAS: of_logits.sum(axis=(0, 1, 2), dtype=np.float32)}
        activations = dict.fromkeys(nodes, probability)
        return Trace(activations, self._loss.of_arrays(masks, [probability]), gradients)

    def weights(self) -> Weights:
        return {key: each.copy() for key, each in self._weights.items()}

    def set_weights(self, weights: Weights) -> None:
        for key, each in self._weights.items():
            each[...] = weights[key]

    def state(self) -> State:
        return self._updates.state()

    def set_state(self, state: State) -> None:
        self._updates.set_state(state)
