"""Keras 3 adapter: a graph becomes a functional Keras model; the engine below it is chosen once per process.

Layers are in `keras_layers`. Only the compiled steps differ between engines.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from mspipeline.backends import keras_layers
from mspipeline.backends.base import Adam, Backend, Execution, FloatArray, Loss, State, StepResult, Trace
from mspipeline.errors import BackendError, ShapeError
from mspipeline.network import ops
from mspipeline.network.graph import Graph
from mspipeline.network.weights import Weights, check_weights

PROBABILITY_FLOOR = 1e-7
"""Probabilities are clipped to [floor, 1 - floor] before a logarithm, as in `training.losses`."""


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; shown after all where the block raises.

    TensorFlow's libraries log about their own build before any log level can reach them.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_keras(engine: str) -> Any:
    """Keras on this engine. Raises BackendError where another engine runs in this process already."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = engine
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what matters arrives as an exception
        with _quiet_stderr():
            importlib.import_module(engine)
    import keras

    running = keras.config.backend()
    if running != engine:
        raise BackendError(f"Keras already runs on {running} in this process; start {engine} in a process of its own")
    return keras


def _bce(keras: Any, mask: Any, probability: Any) -> Any:
    p = keras.ops.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return -keras.ops.mean(mask * keras.ops.log(p) + (1 - mask) * keras.ops.log(1 - p))


def _dice(keras: Any, mask: Any, probability: Any) -> Any:
    overlap = keras.ops.sum(mask * probability)
    return 1 - (2 * overlap + 1) / (keras.ops.sum(mask) + keras.ops.sum(probability) + 1)


_LOSSES: dict[str, Callable[[Any, Any, Any], Any]] = {"bce": _bce, "dice": _dice}


def _adam(keras: Any, settings: Adam) -> Any:
    """Adam as `base.Adam` has it. Keras' own divides by sqrt(v) + epsilon before it corrects v's bias, which makes its
    epsilon 1 / sqrt(1 - beta2^t) times as large: 32 times in the first step.
    """
    ops = keras.ops

    class PaperAdam(keras.optimizers.Adam):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            step = ops.cast(self.iterations + 1, variable.dtype)
            first = 1 - ops.power(ops.cast(self.beta_1, variable.dtype), step)
            second = ops.sqrt(1 - ops.power(ops.cast(self.beta_2, variable.dtype), step))
            position = self._get_variable_index(variable)
            mean, square = self._momentums[position], self._velocities[position]
            self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
            self.assign_add(square, (ops.square(gradient) - square) * (1 - self.beta_2))
            rate = ops.cast(learning_rate, variable.dtype) * second / first
            self.assign_sub(variable, mean * rate / (ops.sqrt(square) + self.epsilon * second))

    return PaperAdam(settings.learning_rate, settings.beta1, settings.beta2, settings.epsilon, name="adam")


class TensorFlowBackend(Backend):
    """Keras 3 on TensorFlow."""

    name = "tensorflow"
    operations: ClassVar[frozenset[type[ops.Op]]] = frozenset(keras_layers.REALISE)

    def build(self, graph: Graph, execution: Execution) -> None:
        self.check(graph)
        self._keras = load_keras("tensorflow")
        import tensorflow as tf

        self._tf, self._graph = tf, graph
        self._configure(execution)
        self._device = _choose_device(tf, execution.device)
        with tf.device(self._device):
            self._model = keras_layers.realise(self._keras, graph, execution.seed)
        # Without XLA: on a CPU it is slower than oneDNN's kernels (docs/decisions/0002); on a GPU nobody measured yet.
        image = tf.TensorSpec((None, *graph.inputs[0].shape), tf.float32)
        self._predict = tf.function(lambda images: self._model(images, training=False), input_signature=[image])
        self._image, self._mask = image, tf.TensorSpec((None, *graph[graph.outputs[0]].shape), tf.float32)
        self._optimiser: Any = None

    def _configure(self, execution: Execution) -> None:
        """Threads and determinism: fixed before TensorFlow's first operation, and for the whole process."""
        threading = self._tf.config.threading
        try:
            threading.set_intra_op_parallelism_threads(execution.threads)
            threading.set_inter_op_parallelism_threads(min(2, execution.threads))
        except RuntimeError as error:
            running = threading.get_intra_op_parallelism_threads()
            raise BackendError(
                f"TensorFlow already runs with {running} threads in this process, asked for {execution.threads}; "
                "start it in a process of its own"
            ) from error
        self._tf.config.experimental.enable_op_determinism()
        self._keras.utils.set_random_seed(execution.seed)

    def compile(self, loss: Loss, optimiser: Adam) -> None:
        tf, keras, model = self._tf, self._keras, self._model
        with tf.device(self._device):
            self._optimiser = _adam(keras, optimiser)
            self._optimiser.build(model.trainable_variables)

        def loss_of(masks: Any, probability: Any) -> Any:
            return _LOSSES[loss.name](keras, masks, probability)

        def gradients_of(images: Any, masks: Any) -> tuple[Any, Any, Any]:
            with tf.GradientTape() as tape:
                probability = model(images, training=True)
                value = loss_of(masks, probability)
            return value, probability, tape.gradient(value, model.trainable_variables)

        def train(images: Any, masks: Any) -> tuple[Any, Any]:
            value, probability, gradients = gradients_of(images, masks)
            self._optimiser.apply(gradients, model.trainable_variables)
            return value, probability

        def evaluate(images: Any, masks: Any) -> tuple[Any, Any]:
            probability = model(images, training=False)
            return loss_of(masks, probability), probability

        self._gradients = gradients_of
        signature = [self._image, self._mask]
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
        with self._tf.device(self._device):
            loss, probability = step(images, masks)
        return StepResult(float(loss), probability.numpy())

    def predict(self, images: FloatArray) -> FloatArray:
        with self._tf.device(self._device):
            probability: FloatArray = self._predict(images).numpy()
        return probability

    def trace(self, images: FloatArray, masks: FloatArray, nodes: Sequence[str]) -> Trace:
        model = self._model
        with self._tf.device(self._device):
            seen = self._keras.Model(model.inputs, {node: model.get_layer(node).output for node in nodes})
            activations = {node: values.numpy() for node, values in seen(images, training=False).items()}
            kept = [(variable, variable.value.numpy()) for variable in model.non_trainable_variables]
            loss, _, gradients = self._gradients(images, masks)
            for variable, values in kept:
                variable.assign(values)
        names = {id(variable): key for key, variable in self._variables().items()}
        return Trace(
            activations,
            float(loss),
            {
                (key := names[id(variable)]): keras_layers.other_layout(self._graph, key, gradient.numpy())
                for variable, gradient in zip(model.trainable_variables, gradients, strict=True)
            },
        )

    def _variables(self) -> dict[tuple[str, str], Any]:
        """Keras variables by (node, our name of the weight)."""
        return {
            (layer.name, keras_layers.WEIGHT_NAMES.get(variable.name, variable.name)): variable
            for layer in self._model.layers
            for variable in layer.weights
        }

    def weights(self) -> Weights:
        return {
            key: keras_layers.other_layout(self._graph, key, variable.value.numpy()).copy()
            for key, variable in self._variables().items()
        }

    def set_weights(self, weights: Weights) -> None:
        check_weights(self._graph, weights, source="weights")
        for key, variable in self._variables().items():
            variable.assign(keras_layers.other_layout(self._graph, key, weights[key]))

    def _state_variables(self) -> dict[str, Any]:
        """The optimiser's variables and the dropout layers' generators, by names that every process gives them."""
        optimiser = {f"optimiser/{variable.path}": variable for variable in self._optimiser.variables}
        weights = {id(variable) for variable in self._model.weights}
        generators = {
            f"random/{layer.name}": variable
            for layer in self._model.layers
            for variable in layer.variables
            if id(variable) not in weights
        }
        return {**optimiser, **generators}

    def state(self) -> State:
        return {name: variable.value.numpy().copy() for name, variable in self._state_variables().items()}

    def set_state(self, state: State) -> None:
        variables = self._state_variables()
        if variables.keys() != state.keys():
            differing = sorted(variables.keys() ^ state.keys())
            raise ShapeError(
                f"optimiser state of another network: {len(differing)} entries differ ({differing[0]}, ...); "
                "resume the run that wrote it"
            )
        for name, variable in variables.items():
            variable.assign(state[name])


def _choose_device(tf: Any, wanted: str) -> str:
    """TensorFlow's name of the device to use. Raises BackendError where a GPU is wanted and none is seen."""
    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "gpu" and not gpus:
        raise BackendError("tensorflow sees no GPU here; use --device cpu, or run where `mspipeline doctor` lists one")
    return "/GPU:0" if gpus and wanted != "cpu" else "/CPU:0"
