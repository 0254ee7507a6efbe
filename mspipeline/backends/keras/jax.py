"""JAX engine of the Keras adapter: steps are pure functions, compiled by XLA, of arrays that stay on the device."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mspipeline.backends.base import Execution, FloatArray, StepResult
from mspipeline.backends.keras.backend import (
    KerasBackend,
    as_list,
    keras_optimizer,
    no_gpu,
    threads_are_set,
)
from mspipeline.backends.process_group import JOIN_S
from mspipeline.optimizers import Optimizer
from mspipeline.optimizers.clipping import clipped_to_norm

ARITHMETIC = {
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
}
"""What the steps are written for; JAX's own defaults, which something that ran before may have changed."""


class JaxBackend(KerasBackend):
    """Keras 3 on JAX.

    Weights, running statistics, generators and moments are arrays that each step is given and gives back; XLA writes
    the new ones over the old (donation). Keras' own variables are empty shells after the first step.

    Threads: XLA's pool for the arithmetic has as many as the environment variable NPROC says when JAX is first used in
    a process; this adapter sets it then. The threads that compile, and those that hand out work, cannot be set: there
    are as many as cores. A batch of another size compiles once more.

    A group of processes runs one program, which XLA splits: images are laid over the processes, weights and moments are
    on each, and what has to be exchanged follows from that. So all is as in one process.
    """

    name = "jax"
    _threads: ClassVar[int | None] = None

    def _before_loading(self, execution: Execution) -> None:
        if "jax" not in sys.modules:
            os.environ["NPROC"] = str(execution.threads)
            flags = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
            JaxBackend._threads = execution.threads

    def _configure(self, execution: Execution) -> None:
        import jax

        self._jax = jax
        for name, value in ARITHMETIC.items():
            jax.config.update(name, value)
        if self._threads is not None and self._threads != execution.threads:
            raise threads_are_set("JAX", self._threads, execution.threads)
        if self._group.size > 1:
            self._join(execution)
        gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
        if execution.device == "gpu" and not gpus:
            raise no_gpu(self.name)
        on_gpu = bool(gpus) and execution.device != "cpu"
        self._device = gpus[0] if on_gpu else jax.local_devices(backend="cpu")[0]
        if self._group.size > 1:
            self._lay_out()

    def _join(self, execution: Execution) -> None:
        """Meet the other processes, before JAX looks for devices: it then takes this process's GPU alone."""
        jax, group = self._jax, self._group
        if jax.distributed.is_initialized():
            return
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            group.address,
            group.size,
            group.rank,
            None if execution.device == "cpu" else [group.gpu],
            initialization_timeout=JOIN_S,
            cluster_detection_method="deactivate",
        )

    def _lay_out(self) -> None:
        """Where arrays lie: on every process, or dealt out to them by the first axis."""
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        by_process = {device.process_index: device for device in self._jax.devices(self._device.platform)}
        mesh = Mesh(np.array([by_process[rank] for rank in range(self._group.size)]), ("process",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._dealt = NamedSharding(mesh, PartitionSpec("process"))
        self._all_of = self._jax.jit(lambda values: values, out_shardings=self._everywhere)

    def _held_everywhere(self, values: Any) -> Any:
        """An array of the group that every process has whole; the array itself where there is one process."""
        if self._group.size == 1:
            return values
        return self._jax.make_array_from_process_local_data(self._everywhere, np.asarray(values), np.shape(values))

    def _given(self, values: npt.NDArray[Any], replicated: bool) -> Any:
        """A batch of the group, from this process's share of it or from all of it."""
        if self._group.size == 1 or replicated:
            return self._held_everywhere(values)
        return self._jax.make_array_from_process_local_data(self._dealt, values)

    def _own(self, values: Any) -> Any:
        """What of an array of the group lies on this process."""
        return values if self._group.size == 1 else values.addressable_data(0)

    def _compiled(self, step: Callable[..., Any], outputs: Sequence[str], **options: Any) -> dict[bool, Any]:
        """A step by whether the batch is replicated. outputs: `everywhere` or `dealt`, in their order."""
        if self._group.size == 1:
            return {False: self._jax.jit(step, **options)}
        laid = {"everywhere": self._everywhere, "dealt": self._dealt}
        shared = tuple(laid[output] for output in outputs)
        return {
            False: self._jax.jit(step, out_shardings=shared, **options),
            True: self._jax.jit(step, out_shardings=self._everywhere, **options),
        }

    def _lost(self, error: Exception) -> bool:
        text = str(error)
        return any(word in text for word in ("Gloo", "NCCL", "DEADLINE_EXCEEDED", "UNAVAILABLE", "coordination"))

    def _gather_words(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        return np.asarray(self._own(self._all_of(self._given(words[None], False))))

    def _placed(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._jax.default_device(self._device)
        return device

    def _make_prediction(self) -> None:
        model = self._model
        self._place = {id(variable): ("trainable", i) for i, variable in enumerate(model.trainable_variables)}
        self._place |= {id(variable): ("rest", i) for i, variable in enumerate(model.non_trainable_variables)}
        self._held = {
            "trainable": [self._held_everywhere(variable.value) for variable in model.trainable_variables],
            "rest": [self._held_everywhere(variable.value) for variable in model.non_trainable_variables],
        }

        def predict(trainable: Any, rest: Any, images: Any) -> Any:
            outputs, _ = model.stateless_call(trainable, rest, images, training=False)
            return as_list(outputs)[0]

        self._predict = self._jax.jit(predict)

    def _make_steps(self, optimizer: Optimizer) -> None:
        jax, model, value_of = self._jax, self._trained, self._loss
        updates = self._optimizer = keras_optimizer(self._keras, optimizer)
        updates.build(model.trainable_variables)
        self._place |= {id(variable): ("optimizer", i) for i, variable in enumerate(updates.variables)}
        self._held["optimizer"] = [self._held_everywhere(variable.value) for variable in updates.variables]
        self._rate, place_of_rate = optimizer.learning_rate, self._place[id(updates.learning_rate)][1]

        def loss_of(trainable: Any, rest: Any, images: Any, masks: Any, kept: Any) -> tuple[Any, Any]:
            self._drop(kept)
            outputs, rest = model.stateless_call(trainable, rest, images, training=True)
            outputs = as_list(outputs)
            return value_of(masks, outputs), (outputs[0], rest)

        gradients_of = jax.value_and_grad(loss_of, has_aux=True)

        def train(trainable: Any, rest: Any, moments: Any, images: Any, masks: Any, kept: Any, rate: Any) -> Any:
            (loss, (probability, rest)), gradients = gradients_of(trainable, rest, images, masks, kept)
            gradients = clipped_to_norm(self._keras.ops, gradients, optimizer.clip_norm)
            moments = [rate if place == place_of_rate else each for place, each in enumerate(moments)]
            trainable, moments = updates.stateless_apply(moments, gradients, trainable)
            return trainable, rest, moments, loss, probability

        def evaluate(trainable: Any, rest: Any, images: Any, masks: Any) -> tuple[Any, Any]:
            outputs = as_list(model.stateless_call(trainable, rest, images, training=False)[0])
            return value_of(masks, outputs), outputs[0]

        all_alike = ["everywhere"] * 4
        self._gradients = jax.jit(gradients_of)
        self._train = self._compiled(train, [*all_alike, "dealt"], donate_argnums=(0, 1, 2))
        self._evaluate = self._compiled(evaluate, ["everywhere", "dealt"])

    @property
    def device(self) -> str:
        return "CPU" if self._device.platform == "cpu" else f"GPU: {self._device.device_kind}"

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        held = self._held
        kept = self._dropout.of_step(len(images), replicated=replicated)
        replicated = replicated and self._group.size > 1
        with self._placed(), self._with_others():
            held["trainable"], held["rest"], held["optimizer"], loss, probability = self._train[replicated](
                held["trainable"],
                held["rest"],
                held["optimizer"],
                self._given(images, replicated),
                self._given(masks, replicated),
                [self._given(mask, replicated) for mask in kept.values()],
                self._held_everywhere(np.float32(self._rate if rate is None else rate)),
            )
            self._dropout.draws += 1
            return StepResult(float(loss), np.asarray(self._own(probability)))

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        replicated = replicated and self._group.size > 1
        with self._placed(), self._with_others():
            loss, probability = self._evaluate[replicated](
                self._held["trainable"],
                self._held["rest"],
                self._given(images, replicated),
                self._given(masks, replicated),
            )
            return StepResult(float(loss), np.asarray(self._own(probability)))

    def predict(self, images: FloatArray) -> FloatArray:
        own = [[self._own(each) for each in self._held[kind]] for kind in ("trainable", "rest")]
        with self._placed():
            return np.asarray(self._predict(*own, images))

    def _activations(self, images: FloatArray, nodes: Sequence[str]) -> dict[str, FloatArray]:
        model = self._model
        seen = self._keras.Model(model.inputs[0], {node: model.get_layer(node).output for node in nodes})
        held = [
            [self._own(self._held[kind][place]) for kind, place in (self._place[id(each)] for each in variables)]
            for variables in (seen.trainable_variables, seen.non_trainable_variables)
        ]
        values = self._jax.jit(lambda *given: seen.stateless_call(*given, training=False)[0])(*held, images)
        return {node: np.asarray(each) for node, each in values.items()}

    def _loss_and_gradients(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        kept = [self._given(mask, False) for mask in self._dropout.of_step(len(images)).values()]
        given = self._given(images, False), self._given(masks, False), kept
        (loss, _), gradients = self._gradients(self._held["trainable"], self._held["rest"], *given)
        return float(loss), [np.asarray(gradient) for gradient in gradients]

    def _read(self, variable: Any) -> Any:
        kind, place = self._place[id(variable)]
        return np.array(self._own(self._held[kind][place]))

    def _write(self, variable: Any, values: Any) -> None:
        kind, place = self._place[id(variable)]
        # jax.numpy.array copies: JAX may share a NumPy array's memory, and a donated array is written over.
        with self._placed():
            copied = self._jax.numpy.array(values, self._held[kind][place].dtype)
            self._held[kind][place] = self._held_everywhere(copied)
