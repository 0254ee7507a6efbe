"""PyTorch engine of the Keras adapter: eager steps on layers of `torch_layers`, updates by `torch_updates`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Execution, FloatArray, State, StepResult
from mspipeline.backends.dropout_masks import DRAWS
from mspipeline.backends.keras.backend import KerasBackend, no_gpu, own_gpu
from mspipeline.backends.keras.joint import JointBatch, OwnBatch
from mspipeline.backends.keras.torch_group import gather, join, total, total_in_place
from mspipeline.backends.keras.torch_layers import in_place_activations, joint_normalisation, toolkit
from mspipeline.backends.keras.torch_program import Program
from mspipeline.backends.keras.torch_updates import updates_of
from mspipeline.optimizers import Optimizer


class TorchBackend(KerasBackend):
    """Keras 3 on PyTorch.

    Threads: those within an operation, set for the whole process by the network built last; the pool that runs
    operations side by side is left alone, for nothing here uses it. Determinism, too, is the process's: operations that
    PyTorch has only in a form that is not reproducible (some gradients on a GPU) still run, and PyTorch warns.

    A group of processes is torch.distributed's: gloo between CPUs, NCCL between GPUs. Gradients are summed over it once
    a step, as one array, after the backward pass.
    """

    name = "torch"

    def _configure(self, execution: Execution) -> None:
        import torch

        self._torch = torch
        if execution.device == "gpu" and not torch.cuda.is_available():
            raise no_gpu(self.name)
        self._device = "cuda:0" if execution.device != "cpu" and torch.cuda.is_available() else "cpu"
        if self._group.size > 1:
            if self._device != "cpu":
                self._device = own_gpu([f"cuda:{n}" for n in range(torch.cuda.device_count())], self._group)
            join(self._group, self._device)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(execution.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False

    def _placed(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._keras.device(self._device)
        return device

    def _batch_of_group(self) -> OwnBatch:
        group = self._group
        return JointBatch(self._keras, total, group.rank, group.size) if group.size > 1 else OwnBatch(self._keras)

    def _lost(self, error: Exception) -> bool:
        text = str(error)
        return isinstance(error, self._torch.distributed.DistError) or any(
            word in text for word in ("gloo", "Connection closed", "Connection reset", "NCCL", "c10d")
        )

    def _gather_words(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return gather(words, self._device, self._group.size)

    def _toolkit(self) -> Any:
        tools = toolkit(self._keras)
        return joint_normalisation(tools, self._batch) if isinstance(self._batch, JointBatch) else tools

    def _make_prediction(self) -> None:
        self._program = Program(self._model, in_place_activations())

    def _make_steps(self, optimizer: Optimizer) -> None:
        self._rate, self._clip_norm = optimizer.learning_rate, optimizer.clip_norm
        self._training_program = Program(self._trained, in_place_activations())
        names = {id(variable): "/".join(key) for key, variable in self._variables().items()}
        self._parameters = {names[id(variable)]: variable.value for variable in self._model.trainable_variables}
        self._updates = updates_of(optimizer, self._parameters, self._keras.ops)

    @property
    def device(self) -> str:
        return "CPU" if self._device == "cpu" else f"GPU: {self._torch.cuda.get_device_name(self._device)}"

    def _tensor(self, values: FloatArray) -> Any:
        return self._torch.from_numpy(np.require(values, np.float32, ["C", "W"])).to(self._device)

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        with self._placed(), self._with_others():
            loss, outputs = self._forward(images, masks, training=True, replicated=replicated)
            (loss / self._batch.processes).backward()
            if self._group.size > 1:
                total_in_place([each.grad for each in self._parameters.values() if each.grad is not None])
            self._dropout.draws += 1
            self._clip()
            self._updates.step(self._rate if rate is None else rate)
        return StepResult(loss.item(), outputs[0].detach().cpu().numpy())

    def _clip(self) -> None:
        """Shorten the gradients together so that the norm over all of them is at most `clip_norm`."""
        if self._clip_norm is None:
            return
        found = [each.grad for each in self._parameters.values() if each.grad is not None]
        norms = self._torch._foreach_norm(found)
        length = self._torch.linalg.vector_norm(self._torch.stack(norms))
        self._torch._foreach_mul_(found, self._clip_norm / length.clamp(min=self._clip_norm))

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        with self._placed(), self._with_others(), self._torch.no_grad():
            loss, outputs = self._forward(images, masks, training=False, replicated=replicated)
        return StepResult(loss.item(), outputs[0].cpu().numpy())

    def _forward(
        self, images: FloatArray, masks: FloatArray, *, training: bool, replicated: bool = False
    ) -> tuple[Any, list[Any]]:
        self._batch.counted = 1 / self._batch.processes if replicated else 1.0
        if training:
            masks_kept = self._dropout.of_step(len(images), replicated=replicated)
            self._drop([self._tensor(each) for each in masks_kept.values()])
        outputs = self._training_program(self._tensor(images), training=training)
        return self._loss(self._tensor(masks), outputs), outputs

    def predict(self, images: FloatArray) -> FloatArray:
        with self._placed(), self._torch.no_grad():
            output = self._program(self._tensor(images), training=False)[0]
        probability: FloatArray = output.cpu().numpy()
        return probability

    def _activations(self, images: FloatArray, nodes: Sequence[str]) -> dict[str, FloatArray]:
        seen = self._keras.Model(self._model.inputs[0], {node: self._model.get_layer(node).output for node in nodes})
        with self._torch.no_grad():
            values = seen(self._tensor(images), training=False)
        return {node: each.cpu().numpy() for node, each in values.items()}

    def _loss_and_gradients(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        kept = [(variable, self._read(variable)) for variable in self._model.non_trainable_variables]
        loss, _ = self._forward(images, masks, training=True)
        gradients = self._torch.autograd.grad(loss / self._batch.processes, list(self._parameters.values()))
        if self._group.size > 1:
            total_in_place(gradients)
        for variable, values in kept:
            self._write(variable, values)
        return loss.item(), [gradient.cpu().numpy() for gradient in gradients]

    def _read(self, variable: Any) -> Any:
        return variable.value.detach().cpu().numpy().copy()

    def state(self) -> State:
        kept = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self._updates.kept().items()}
        return {**kept, **self._dropout.state()}

    def set_state(self, state: State) -> None:
        kept = self._updates.kept()
        self._check_state(kept, {name: each for name, each in state.items() if name != DRAWS})
        self._dropout.set_state(state.get(DRAWS))
        with self._torch.no_grad():
            for name, tensor in kept.items():
                tensor.copy_(self._torch.from_numpy(np.array(state[name])))
