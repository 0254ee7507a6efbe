"""PyEDDL adapter: a graph becomes an EDDL network on the CPU, for the library as it is (EDDL 1.1b).

Images and weights change their layout at this module's edge: channels last outside, channels first inside. The layers
are in `layers`, loading, threads and noise in `library`; losses and updates are the suite's own, in NumPy.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mspipeline.backends.base import Backend, Execution, FloatArray, State, StepResult, Trace, loss_nodes
from mspipeline.backends.dropout_masks import DRAWS, DropoutMasks
from mspipeline.backends.eddl import layers as eddl_layers
from mspipeline.backends.eddl import library as eddl_library
from mspipeline.errors import BackendError, ShapeError
from mspipeline.losses import Loss
from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, check_weights
from mspipeline.optimizers import Optimizer
from mspipeline.optimizers.numpy_steps import NumPySteps

log = logging.getLogger(__name__)

_TRAINING, _INFERENCE = 1, 0
_NAMED = 4
"""Nodes that an error line names before it counts the rest."""


class EddlBackend(Backend):
    """EDDL on the CPU, by its Python interface."""

    name = "pyeddl"
    operations: ClassVar[frozenset[type[ops.Op]]] = frozenset(eddl_layers.REALISE)

    @classmethod
    def unsupported(cls, graph: Graph) -> list[str]:
        return [f"{nodes}: {reason}" for reason, nodes in _refused(graph).items()]

    @classmethod
    def check(cls, graph: Graph) -> None:
        if problems := cls.unsupported(graph):
            raise BackendError(f"{cls.name} cannot realise {graph.name}: {'; '.join(problems)}; choose another backend")

    def build(self, graph: Graph, execution: Execution) -> None:
        self.check(graph)
        if len(graph.inputs) != 1:
            raise BackendError(f"pyeddl takes networks of one input, {graph.name} has {len(graph.inputs)}")
        if execution.device == "gpu":
            raise BackendError("pyeddl sees no GPU here: this build of EDDL computes on the CPU; use --device cpu")
        self._library = eddl_library.load()
        self._graph, self._execution = graph, execution
        self._trained_images: int | None = None
        self._steps: NumPySteps | None = None
        self._dropout = DropoutMasks(graph, execution.seed, execution.group)
        self._computed: tuple[str, ...] = tuple(graph.outputs)
        self._realise()
        if racing := self._made.racing:
            log.warning(
                "training with one thread: EDDL's %d would add to one sum at once, unlocked graph=%s node=%s",
                execution.threads,
                graph.name,
                racing[0],
            )

    def _realise(self) -> None:
        """Make the library's network. Its optimizer is never asked; its losses pass on the slopes that it is given."""
        eddl, graph = self._library.eddl, self._graph
        self._library.enter(self._execution.threads)
        losses, self._give_slope = zip(*(self._library.slope_loss() for _ in self._computed), strict=True)
        with eddl_library.quiet(f"building {graph.name}"):
            made = eddl_layers.realise(eddl, graph, self._execution.threads)
            fed = [
                made.tensors[graph.inputs[0].name],
                *([] if made.ones is None else [made.ones]),
                *made.masks.values(),
            ]
            net = eddl.Model(fed, [made.tensors[name] for name in self._computed])
            service = eddl.CS_CPU(self._execution.threads, self._execution.memory)
            net.build(eddl.sgd(0.0), list(losses), [], service)
        self._net, self._made, self._losses = net, made, losses
        self._held = {key: slot.values for key, slot in made.slots.items()}
        for (_, name), held in self._held.items():
            if name in ("mean", "variance"):
                held[...] = float(name == "variance")  # the library lets a running variance begin at 0

    def compile(self, loss: Loss, optimizer: Optimizer) -> None:
        taken = loss_nodes(self._graph, loss)
        loss.check([self._graph[name].shape for name in taken])
        self._loss = loss
        if taken != self._computed:
            self._renew(taken)
        self._trained = [key for key, spec in self._graph.weights().items() if spec.trainable]
        self._steps = NumPySteps(optimizer, {"/".join(key): self._held[key].shape for key in self._trained})

    @property
    def device(self) -> str:
        return "CPU"

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        loss, outputs = self._slopes(images, masks)
        self._dropout.draws += 1
        gradients = {"/".join(key): self._made.slots[key].gradient(len(images)) for key in self._trained}
        self._compiled().step(gradients, {"/".join(key): self._held[key] for key in self._trained}, rate)
        return StepResult(loss, self._probability(outputs))

    def _slopes(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        """A pass in training mode, forward and back: gradients are then in the slots."""
        self._compiled()
        self._check_masks(images, masks)
        self._renew_for(len(images))
        outputs = self._forward(images, _TRAINING, 1 if self._made.racing else self._execution.threads)
        loss, slopes = self._loss_of(masks, outputs)
        for give, slope in zip(self._give_slope, slopes, strict=True):
            give(np.moveaxis(slope, -1, 1))  # (N, *spatial, C) -> (N, C, *spatial)
        with eddl_library.one_line(f"training {self._graph.name}"):
            self._library.eddl.zeroGrads(self._net)
            self._library.eddl.backward(self._net, [])
        return loss, outputs

    def _renew_for(self, images: int) -> None:
        """With full_mem the library's slopes are garbage once a training batch has another size: make it anew."""
        if self._execution.memory == "full_mem" and self._trained_images not in (None, images):
            self._renew(self._computed)
        self._trained_images = images

    def _renew(self, computed: tuple[str, ...]) -> None:
        """The library's network anew, with the weights of the one before. computed: the nodes that it ends in."""
        weights = self.weights()
        self._computed = computed
        self._realise()
        self.set_weights(weights)

    def _loss_of(self, masks: FloatArray, outputs: list[FloatArray]) -> tuple[float, list[np.ndarray]]:
        """The loss of a batch and its slope by each output, in float64."""
        masks, outputs = masks.astype(np.float64), [each.astype(np.float64) for each in outputs]
        return self._loss.of_arrays(masks, outputs), self._loss.gradients(masks, outputs)

    def _probability(self, outputs: list[FloatArray]) -> FloatArray:
        """The graph's first output, from what the library computed: where a loss takes logits, those."""
        return outputs[0] if self._computed == tuple(self._graph.outputs) else _sigmoid(outputs[0])

    def _forward(self, images: FloatArray, mode: int, threads: int) -> list[FloatArray]:
        """(N, *shape) of every node that the library's network ends in."""
        shape = self._graph.inputs[0].shape
        if images.shape[1:] != shape or len(images) == 0:  # of an empty batch the library's process would die
            raise ShapeError(f"{self._graph.name} takes images (N, {_listed(shape)}), N at least 1; got {images.shape}")
        library = self._library
        library.enter(threads)
        fed = [library.tensor(np.moveaxis(images, -1, 1))]  # (N, *spatial, C) -> (N, C, *spatial)
        if self._made.ones is not None:
            fed.append(library.tensor(np.ones((len(images), 1))))
        fed += [library.tensor(mask) for mask in self._dropped(len(images), mode)]
        with eddl_library.one_line(f"computing {self._graph.name}"):
            library.eddl.set_mode(self._net, mode)
            library.eddl.forward(self._net, fed)
        return [self._result(name) for name in self._computed]

    def _dropped(self, images: int, mode: int) -> list[FloatArray]:
        """What each dropout multiplies by, (N, C, *spatial): the masks of this step, or ones."""
        if mode == _TRAINING:
            return [np.moveaxis(mask, -1, 1) for mask in self._dropout.of_step(images).values()]
        shapes = [self._graph[node].shape for node in self._made.masks]
        return [np.ones((images, shape[-1], *shape[:-1]), np.float32) for shape in shapes]

    def _result(self, node: str) -> FloatArray:
        """A copy of a node's values, (N, *shape)."""
        return np.ascontiguousarray(np.moveaxis(np.array(self._made.tensors[node].output), 1, -1))

    def _check_masks(self, images: FloatArray, masks: FloatArray) -> None:
        expected = (len(images), *self._graph[self._graph.outputs[0]].shape)
        if masks.shape != expected:
            raise ShapeError(f"{self._graph.name} takes masks ({_listed(expected)}) here; got {masks.shape}")

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        self._compiled()
        self._check_masks(images, masks)
        outputs = self._forward(images, _INFERENCE, self._execution.threads)
        return StepResult(self._loss_of(masks, outputs)[0], self._probability(outputs))

    def predict(self, images: FloatArray) -> FloatArray:
        return self._probability(self._forward(images, _INFERENCE, self._execution.threads))

    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        probability = self._probability(self._forward(images, _INFERENCE, self._execution.threads))
        left_out = () if self._computed == tuple(self._graph.outputs) else self._graph.outputs  # a sigmoid
        activations = {node: probability if node in left_out else self._result(node) for node in nodes}
        kept = self.weights()
        loss, _ = self._slopes(images, masks)
        slots = self._made.slots
        gradients = {key: slots[key].ours(slots[key].gradient(len(images))).copy() for key in self._trained}
        self.set_weights(kept)  # the running statistics have moved
        return Trace(activations, loss, gradients)

    def weights(self) -> Weights:
        return {key: self._made.slots[key].ours(self._held[key]).copy() for key in self._graph.weights()}

    def set_weights(self, weights: Weights) -> None:
        check_weights(self._graph, weights, source="weights")
        for key, slot in self._made.slots.items():
            self._held[key][...] = slot.theirs(weights[key], self._held[key])

    def state(self) -> State:
        return self._compiled().state() | self._dropout.state()

    def set_state(self, state: State) -> None:
        kept = {_named_now(name): values for name, values in state.items() if name != DRAWS}
        self._compiled().set_state(kept)
        self._dropout.set_state(state.get(DRAWS))

    def _compiled(self) -> NumPySteps:
        if self._steps is None:
            raise BackendError(f"{self._graph.name} is built for prediction alone; compile it to train")
        return self._steps


def _named_now(name: str) -> str:
    """The name of a part of the state, from the one that it had when Adam was this adapter's own."""
    before = {"optimizer/mean/": "optimizer/momentum/", "optimizer/square/": "optimizer/velocity/"}
    old = next((prefix for prefix in before if name.startswith(prefix)), "")
    return before.get(old, "") + name.removeprefix(old)


def _refused(graph: Graph) -> dict[str, str]:
    """Reasons, each with the nodes that it concerns as `node (operation), ...`."""
    nodes: dict[str, list[str]] = {}
    for node in graph:
        if reason := eddl_layers.refusal(graph, node):
            nodes.setdefault(reason, []).append(f"{node.name} ({type(node.op).__name__})")
    return {
        reason: ", ".join(each[:_NAMED]) + (f" and {len(each) - _NAMED} more" if len(each) > _NAMED else "")
        for reason, each in nodes.items()
    }


def _sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z)), by the power that cannot overflow."""
    power = np.exp(-np.abs(logits))
    probability: FloatArray = np.where(logits >= 0, np.float32(1), power) / (1 + power)
    return probability


def _listed(shape: ops.Shape) -> str:
    return ", ".join(map(str, shape))
