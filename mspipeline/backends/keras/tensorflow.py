"""TensorFlow engine of the Keras adapter: steps as `tf.function`s."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
    own_gpu,
    threads_are_set,
)
from mspipeline.backends.keras.joint import JointBatch, OwnBatch, joint_normalisation
from mspipeline.backends.keras.layers import with_own_layers
from mspipeline.backends.keras.tensorflow_layers import toolkit
from mspipeline.backends.process_group import SILENCE_S, addresses
from mspipeline.optimizers import Optimizer
from mspipeline.optimizers.clipping import clipped_to_norm


class TensorFlowBackend(KerasBackend):
    """Keras 3 on TensorFlow. Threads and determinism are the process's, fixed by the first network built in it.

    A group of processes is one MultiWorkerMirroredStrategy: gRPC's ring between CPUs, NCCL between GPUs. A process that
    ends is noticed when its heartbeats stop, after 10 s.
    """

    name = "tensorflow"
    _strategy: ClassVar[Any] = None
    _all_of: ClassVar[Any] = None

    def _configure(self, execution: Execution) -> None:
        """Threads and determinism: fixed before TensorFlow's first operation, and for the whole process."""
        import tensorflow as tf

        self._tf = tf
        threading = tf.config.threading
        try:
            threading.set_intra_op_parallelism_threads(execution.threads)
            threading.set_inter_op_parallelism_threads(min(2, execution.threads))
        except RuntimeError as error:
            running = threading.get_intra_op_parallelism_threads()
            raise threads_are_set("TensorFlow", running, execution.threads) from error
        tf.config.experimental.enable_op_determinism()
        gpus = tf.config.list_physical_devices("GPU")
        if execution.device == "gpu" and not gpus:
            raise no_gpu(self.name)
        self._device = "/GPU:0" if gpus and execution.device != "cpu" else "/CPU:0"
        if self._group.size > 1:
            tf.config.set_visible_devices([own_gpu(gpus, self._group)] if "GPU" in self._device else [], "GPU")
            self._join()

    def _join(self) -> None:
        """Meet the other processes: from here on TensorFlow's collective operations run between them."""
        tf, group = self._tf, self._group
        if self._strategy is not None:
            return
        cluster = tf.train.ClusterSpec({"worker": addresses(group)})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            cluster, task_type="worker", task_id=group.rank, rpc_layer="grpc"
        )
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=SILENCE_S)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it tells of its cluster at length
        strategy = TensorFlowBackend._strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)

        def all_of(own: Any) -> Any:
            return tf.distribute.get_replica_context().all_gather(own[None], axis=0)

        TensorFlowBackend._all_of = staticmethod(tf.function(lambda own: strategy.run(all_of, (own,))))

    def _placed(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._tf.device(self._device)
        return device

    def _batch_of_group(self) -> OwnBatch:
        group = self._group
        return JointBatch(self._keras, self._total, group.rank, group.size) if group.size > 1 else OwnBatch(self._keras)

    def _total(self, values: Any) -> Any:
        """Sum over the processes, inside of a step; TensorFlow sums the gradients, too."""
        distribute = self._tf.distribute
        return distribute.get_replica_context().all_reduce(distribute.ReduceOp.SUM, values)

    def _lost(self, error: Exception) -> bool:
        errors = self._tf.errors
        return isinstance(
            error, errors.UnavailableError | errors.AbortedError | errors.CancelledError | errors.DeadlineExceededError
        )

    def _gather_words(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        gathered: npt.NDArray[np.int32] = self._all_of(self._tf.constant(words)).numpy()
        return gathered

    def _toolkit(self) -> Any:
        tools = toolkit(self._keras)
        if not isinstance(self._batch, JointBatch):
            return tools
        return with_own_layers(
            tools, {"BatchNormalization": joint_normalisation(tools.layers.BatchNormalization, self._batch)}
        )

    def _make_prediction(self) -> None:
        # Without XLA: on a CPU it is slower than oneDNN's kernels (docs/decisions/0002); on a GPU nobody measured yet.
        tf, graph = self._tf, self._graph
        self._image = tf.TensorSpec((None, *graph.inputs[0].shape), tf.float32)
        self._mask = tf.TensorSpec((None, *graph[graph.outputs[0]].shape), tf.float32)
        self._predict = tf.function(
            lambda images: as_list(self._model(images, training=False))[0], input_signature=[self._image]
        )

    def _make_steps(self, optimizer: Optimizer) -> None:
        tf, model, loss_of, batch = self._tf, self._trained, self._loss, self._batch
        self._optimizer = keras_optimizer(self._keras, optimizer)
        self._optimizer.build(model.trainable_variables)

        def gradients_of(images: Any, masks: Any, counted: Any, kept: Any) -> tuple[Any, Any, Any]:
            batch.counted = counted
            self._drop(kept)
            with tf.GradientTape() as tape:
                outputs = as_list(model(images, training=True))
                value = loss_of(masks, outputs)
                share = value / batch.processes
            gradients = tape.gradient(share, model.trainable_variables)
            return value, outputs[0], self._total(gradients) if batch.processes > 1 else gradients

        def loss_and_output(images: Any, masks: Any, counted: Any) -> tuple[Any, Any]:
            batch.counted = counted
            outputs = as_list(model(images, training=False))
            return loss_of(masks, outputs), outputs[0]

        def together(step: Any, *given: Any) -> Any:
            return self._strategy.run(step, given) if batch.processes > 1 else step(*given)

        def gradients(images: Any, masks: Any, counted: Any, kept: Any) -> Any:
            return together(gradients_of, images, masks, counted, kept)

        def train(images: Any, masks: Any, counted: Any, kept: Any, rate: Any) -> tuple[Any, Any]:
            value, probability, found = gradients(images, masks, counted, kept)
            self._optimizer.learning_rate = rate
            found = clipped_to_norm(self._keras.ops, found, optimizer.clip_norm)
            self._optimizer.apply(found, model.trainable_variables)
            return value, probability

        def evaluate(images: Any, masks: Any, counted: Any) -> Any:
            return together(loss_and_output, images, masks, counted)

        self._rate = optimizer.learning_rate
        number = tf.TensorSpec((), tf.float32)
        signature = [self._image, self._mask, number]
        kept = [tf.TensorSpec((None, *self._graph[node].shape), tf.float32) for node in self._dropout.nodes]
        # Compiled when a trace asks for it.
        self._gradients = tf.function(gradients, input_signature=[*signature, kept], autograph=False)
        self._train = tf.function(train, input_signature=[*signature, kept, number], autograph=False)
        self._evaluate = tf.function(evaluate, input_signature=signature, autograph=False)

    @property
    def device(self) -> str:
        if "GPU" not in self._device:
            return "CPU"
        details = self._tf.config.experimental.get_device_details(self._tf.config.list_physical_devices("GPU")[0])
        return f"GPU: {details.get('device_name', 'unnamed')}"

    def train_step(
        self, images: FloatArray, masks: FloatArray, rate: float | None = None, *, replicated: bool = False
    ) -> StepResult:
        kept = [*self._dropout.of_step(len(images), replicated=replicated).values()]
        result = self._run(self._train, images, masks, replicated, kept, self._rate if rate is None else rate)
        self._dropout.draws += 1
        return result

    def evaluate_step(self, images: FloatArray, masks: FloatArray, *, replicated: bool = False) -> StepResult:
        return self._run(self._evaluate, images, masks, replicated)

    def _run(self, step: Any, images: FloatArray, masks: FloatArray, replicated: bool, *more: Any) -> StepResult:
        with self._placed(), self._with_others():
            loss, probability = step(images, masks, 1 / self._batch.processes if replicated else 1.0, *more)
            return StepResult(float(loss), probability.numpy())

    def predict(self, images: FloatArray) -> FloatArray:
        with self._placed():
            probability: FloatArray = self._predict(images).numpy()
        return probability

    def _activations(self, images: FloatArray, nodes: Sequence[str]) -> dict[str, FloatArray]:
        seen = self._keras.Model(self._model.inputs[0], {node: self._model.get_layer(node).output for node in nodes})
        compute = self._tf.function(lambda images: seen(images, training=False), input_signature=[self._image])
        return {node: values.numpy() for node, values in compute(images).items()}

    def _loss_and_gradients(self, images: FloatArray, masks: FloatArray) -> tuple[float, list[FloatArray]]:
        kept = [(variable, self._read(variable)) for variable in self._model.non_trainable_variables]
        loss, _, gradients = self._gradients(images, masks, 1.0, [*self._dropout.of_step(len(images)).values()])
        for variable, values in kept:
            self._write(variable, values)
        return float(loss), [gradient.numpy() for gradient in gradients]

    def _read(self, variable: Any) -> Any:
        return variable.value.numpy().copy()
