"""JAX engine of the Keras adapter: steps are pure functions, compiled by XLA, of arrays that stay on the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from mspipeline.backends.base import Adam, Execution, FloatArray, StepResult
from mspipeline.backends.keras import KerasBackend, as_list, no_gpu, paper_adam, threads_are_set


class JaxBackend(KerasBackend):
    """Keras 3 on JAX.

    Weights, running statistics, generators and moments are arrays that each step is given and gives back; XLA writes
    the new ones over the old (donation). Keras' own variables are empty shells after the first step.

    Threads: XLA's pool for the arithmetic has as many as the environment variable NPROC says when JAX is first used in
    a process; this adapter sets it then. The threads that compile, and those that hand out work, cannot be set: there
    are as many as cores. A batch of another size compiles once more.
    """

    name = "jax"
    _threads: ClassVar[int | None] = None

    def _before_loading(self, execution: Execution) -> None:
        if "jax" not in sys.modules:
            os.environ["NPROC"] = str(execution.threads)
            flags = os.environ.get("XLA_FLAGS", "")
            if "xla_gpu_deterministic_ops" not in flags:
                os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
            JaxBackend._threads = execution.threads

    def _configure(self, execution: Execution) -> None:
        import jax

        self._jax = jax
        if self._threads is not None and self._threads != execution.threads:
            raise threads_are_set("JAX", self._threads, execution.threads)
        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        if execution.device == "gpu" and not gpus:
            raise no_gpu(self.name)
        self._device = gpus[0] if gpus and execution.device != "cpu" else jax.devices("cpu")[0]

    def _placed(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._jax.default_device(self._device)
        return device

    def _make_prediction(self) -> None:
        model = self._model
        self._place = {id(variable): ("trainable", i) for i, variable in enumerate(model.trainable_variables)}
        self._place |= {id(variable): ("rest", i) for i, variable in enumerate(model.non_trainable_variables)}
        self._held = {
            "trainable": [variable.value for variable in model.trainable_variables],
            "rest": [variable.value for variable in model.non_trainable_variables],
        }

        def predict(trainable: Any, rest: Any, images: Any) -> Any:
            outputs, _ = model.stateless_call(trainable, rest, images, training=False)
            return as_list(outputs)[0]

        self._predict = self._jax.jit(predict)

    def _make_steps(self, optimiser: Adam) -> None:
        jax, model, value_of = self._jax, self._model, self._loss
        updates = self._optimiser = paper_adam(self._keras, optimiser)
        updates.build(model.trainable_variables)
        self._place |= {id(variable): ("optimiser", i) for i, variable in enumerate(updates.variables)}
        self._held["optimiser"] = [variable.value for variable in updates.variables]

        def loss_of(trainable: Any, rest: Any, images: Any, masks: Any) -> tuple[Any, Any]:
            outputs, rest = model.stateless_call(trainable, rest, images, training=True)
            outputs = as_list(outputs)
            return value_of(masks, outputs), (outputs[0], rest)

        gradients_of = jax.value_and_grad(loss_of, has_aux=True)

        def train(trainable: Any, rest: Any, moments: Any, images: Any, masks: Any) -> Any:
            (loss, (probability, rest)), gradients = gradients_of(trainable, rest, images, masks)
            trainable, moments = updates.stateless_apply(moments, gradients, trainable)
            return trainable, rest, moments, loss, probability

        def evaluate(trainable: Any, rest: Any, images: Any, masks: Any) -> tuple[Any, Any]:
            outputs = as_list(model.stateless_call(trainable, rest, images, training=False)[0])
            return value_of(masks, outputs), outputs[0]

        self._gradients = jax.jit(gradients_of)
        self._train = jax.jit(train, donate_argnums=(0, 1, 2))
        self._evaluate = jax.jit(evaluate)

    @property
    def device(self) -> str:
        return "CPU" if self._device.platform == "cpu" else f"GPU: {self._device.device_kind}"

    def train_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        held = self._held
        with self._placed():
            held["trainable"], held["rest"], held["optimiser"], loss, probability = self._train(
                held["trainable"], held["rest"], held["optimiser"], images, masks
            )
        return StepResult(float(loss), np.asarray(probability))

    def evaluate_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        with self._placed():
            loss, probability = self._evaluate(self._held["trainable"], self._held["rest"], images, masks)
        return StepResult(float(loss), np.asarray(probability))

    def predict(self, images: FloatArray) -> FloatArray:
        with self._placed():
            return np.asarray(self._predict(self._held["trainable"], self._held["rest"], images))

    def _activations(self, images: FloatArray, nodes: Sequence[str]) -> dict[str, FloatArray]:
        model = self._model
        seen = self._keras.Model(model.inputs[0], {node: model.get_layer(node).output for node in nodes})
        held = [
            [self._held[kind][place] for kind, place in (self._place[id(variable)] for variable in variables)]
            for variables in (seen.trainable_variables, seen.non_trainable_variables)
        ]
        values = self._jax.jit(lambda *given: seen.stateless_call(*given, training=False)[0])(*held, images)
        return {node: np.asarray(each) for node, each in values.items()}

    def _loss_and_gradients(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        (loss, _), gradients = self._gradients(self._held["trainable"], self._held["rest"], images, masks)
        return float(loss), [np.asarray(gradient) for gradient in gradients]

    def _read(self, variable: Any) -> Any:
        kind, place = self._place[id(variable)]
        return np.array(self._held[kind][place])

    def _write(self, variable: Any, values: Any) -> None:
        kind, place = self._place[id(variable)]
        # jax.numpy.array copies: JAX may share a NumPy array's memory, and a donated array is written over.
        with self._placed():
            self._held[kind][place] = self._jax.numpy.array(values, self._held[kind][place].dtype)
