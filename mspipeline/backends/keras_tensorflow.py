"""TensorFlow engine of the Keras adapter: steps as `tf.function`s."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from mspipeline.backends.base import Adam, Execution, FloatArray, StepResult
from mspipeline.backends.keras import KerasBackend, as_list, no_gpu, paper_adam, threads_are_set
from mspipeline.backends.keras_tensorflow_layers import toolkit


class TensorFlowBackend(KerasBackend):
    """Keras 3 on TensorFlow. Threads and determinism are the process's, fixed by the first network built in it."""

    name = "tensorflow"

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
        self._keras.utils.set_random_seed(execution.seed)
        gpus = tf.config.list_physical_devices("GPU")
        if execution.device == "gpu" and not gpus:
            raise no_gpu(self.name)
        self._device = "/GPU:0" if gpus and execution.device != "cpu" else "/CPU:0"

    def _placed(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._tf.device(self._device)
        return device

    def _toolkit(self) -> Any:
        return toolkit(self._keras)

    def _make_prediction(self) -> None:
        # Without XLA: on a CPU it is slower than oneDNN's kernels (docs/decisions/0002); on a GPU nobody measured yet.
        tf, graph = self._tf, self._graph
        self._image = tf.TensorSpec((None, *graph.inputs[0].shape), tf.float32)
        self._mask = tf.TensorSpec((None, *graph[graph.outputs[0]].shape), tf.float32)
        self._predict = tf.function(
            lambda images: as_list(self._model(images, training=False))[0], input_signature=[self._image]
        )

    def _make_steps(self, optimiser: Adam) -> None:
        tf, model, loss_of = self._tf, self._model, self._loss
        self._optimiser = paper_adam(self._keras, optimiser)
        self._optimiser.build(model.trainable_variables)

        def gradients_of(images: Any, masks: Any) -> tuple[Any, Any, Any]:
            with tf.GradientTape() as tape:
                outputs = as_list(model(images, training=True))
                value = loss_of(masks, outputs)
            return value, outputs[0], tape.gradient(value, model.trainable_variables)

        def train(images: Any, masks: Any) -> tuple[Any, Any]:
            value, probability, gradients = gradients_of(images, masks)
            self._optimiser.apply(gradients, model.trainable_variables)
            return value, probability

        def evaluate(images: Any, masks: Any) -> tuple[Any, Any]:
            outputs = as_list(model(images, training=False))
            return loss_of(masks, outputs), outputs[0]

        signature = [self._image, self._mask]
        self._gradients = tf.function(gradients_of, input_signature=signature)  # compiled when a trace asks for it
        self._train = tf.function(train, input_signature=signature)
        self._evaluate = tf.function(evaluate, input_signature=signature)

    @property
    def device(self) -> str:
        if "GPU" not in self._device:
            return "CPU"
        details = self._tf.config.experimental.get_device_details(self._tf.config.list_physical_devices("GPU")[0])
        return f"GPU: {details.get('device_name', 'unnamed')}"

    def train_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        return self._run(self._train, images, masks)

    def evaluate_step(self, images: FloatArray, masks: FloatArray) -> StepResult:
        return self._run(self._evaluate, images, masks)

    def _run(self, step: Any, images: FloatArray, masks: FloatArray) -> StepResult:
        with self._placed():
            loss, probability = step(images, masks)
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
        loss, _, gradients = self._gradients(images, masks)
        for variable, values in kept:
            self._write(variable, values)
        return float(loss), [gradient.numpy() for gradient in gradients]

    def _read(self, variable: Any) -> Any:
        return variable.value.numpy().copy()
